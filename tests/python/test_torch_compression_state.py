"""Goal: what compression owes the model survives checkpoints, and is conserved when ranks change.

Method: real ranks. Training that was interrupted and resumed is compared bit by bit with training
that was not; for a change of the number of ranks, what all of them owe is added up before and
after. Gradients are whole numbers.
"""

import json
import os
import sys
import tempfile

import numpy as np
import pytest
import torch
from support import lines_of, needs_horarun, on_ranks, run_job, run_ranks

import hora.torch as hvd

CHAINS = ("onebit", "ef+topk:ratio=2%", "dgc:ratio=5%,m=0.5,warmup=4", "powersgd:rank=2", "qsgd")


def started(chain, lr=0.125):
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.Linear(60, 30))
    plain = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer = hvd.DistributedOptimizer(plain, model.named_parameters(), compression=chain)
    return model, optimizer


def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(100 * step + hvd.rank())
        optimizer.zero_grad()
        model(torch.randn(8, 40, generator=generator)).square().mean().backward()
        optimizer.step()


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def meet_again():
    """A new engine, as a new process would have: names and clocks begin anew."""
    hvd.shutdown()
    hvd.init()


@on_ranks(2)
def test_training_goes_on_to_the_bit_after_a_reload():
    for chain in CHAINS:
        meet_again()
        model, optimizer = started(chain)
        train(model, optimizer, range(6))
        saved = {
            "model": {k: v.clone() for k, v in model.state_dict().items()},
            "optimizer": optimizer.state_dict(),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state.pt")
            torch.save(saved, path)
            loaded = torch.load(path, weights_only=True)
        train(model, optimizer, range(6, 10))
        expected = flat(model)
        del model, optimizer

        meet_again()
        model, optimizer = started(chain)
        model.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])
        train(model, optimizer, range(6, 10))
        assert torch.equal(flat(model), expected), chain

        meet_again()
        model, optimizer = started(chain)
        model.load_state_dict(loaded["model"])
        train(model, optimizer, range(6, 10))
        assert not torch.equal(flat(model), expected), f"{chain}: the memory did not matter"


@on_ranks(2)
def test_loading_into_an_optimizer_that_has_trained_takes_it_back():
    model, optimizer = started("onebit")
    train(model, optimizer, range(3))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    saved = optimizer.state_dict()
    train(model, optimizer, range(3, 6))
    expected = flat(model)
    model.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    train(model, optimizer, range(3, 6))
    assert torch.equal(flat(model), expected)


@on_ranks(2)
def test_an_uncompressed_optimizer_has_the_state_of_the_plain_one():
    model, optimizer = started("none")
    train(model, optimizer, range(2))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    plain = torch.optim.SGD(model.parameters(), lr=0.125)
    compressed = started("onebit")
    train(*compressed, range(1))
    plain.load_state_dict(compressed[1].state_dict())  # which knows nothing of Hora


@on_ranks(2)
def test_state_is_refused_while_gradients_are_in_flight():
    model, optimizer = started("onebit")
    model(torch.ones(1, 40)).sum().backward()
    with pytest.raises(AssertionError, match="in messages"):
        optimizer.state_dict()
    optimizer.step()
    assert optimizer.state_dict()["hora"]


@on_ranks(2)
def test_broadcasting_an_optimizer_shares_clocks_and_leaves_memories():
    """With another clock the ranks of `randk` would send other elements, and add them up."""
    meet_again()
    model, optimizer = started("ef+randk:ratio=10%")
    train(model, optimizer, range(2))
    before = {row["tensor"]: row["owed"] for row in hvd.compression_memories()["tensors"]}
    assert all(owed > 0 for owed in before.values())
    hvd.broadcast_optimizer_state(optimizer, 0)
    after = hvd.compression_memories()
    assert {row["tensor"]: row["owed"] for row in after["tensors"]} == before
    assert {row["exchanges"] for row in after["tensors"]} == {2}
    assert after["lost"] == 0


@on_ranks(2)
def test_memories_and_ratios_are_metrics():
    meet_again()
    assert hvd.compression_memories() == {"tensors": [], "lost": 0}
    values = torch.arange(4096.0) - 1000 * hvd.rank()
    for _ in range(3):
        hvd.allreduce(values, name="x", compression="onebit")
    (row,) = hvd.compression_memories()["tensors"]
    assert row["tensor"] == "x" and row["exchanges"] == 3 and row["owed"] > 0
    assert row["chain"].startswith("ef:") and row["bytes"] == 4 * (4096 + 2048)
    counted = hvd.metrics()
    assert counted["compressed_bytes"] == 3 * 4 * 4096
    assert 20 < counted["compressed_bytes"] / counted["compressed_wire_bytes"] < 32
    text = hvd.metrics_text()
    assert f'hora_compressed_bytes_total{{rank="{hvd.rank()}"}} {3 * 4 * 4096}' in text
    hvd.allreduce(values[:100], name="x", compression="onebit")
    assert hvd.compression_memories()["lost"] > 0, "another shape: what was owed is gone"


@on_ranks(2)
def test_the_rate_of_the_last_step_rescales_what_is_owed():
    """ef:units=update: e counts as an update, so at half the rate it is twice a gradient's worth.

    Only the largest of two elements is sent; the other one waits, and is sent next.
    """
    meet_again()
    for units, expected in (("update", 2.0), ("grad", 1.0)):
        param = torch.nn.Parameter(torch.zeros(2))
        plain = torch.optim.SGD([param], lr=0.5)
        chain = f"ef:units={units}+topk:ratio=50%"
        optimizer = hvd.DistributedOptimizer(plain, [(units, param)], compression=chain)
        param.grad = torch.tensor([3.0, 1.0])
        optimizer.step()
        assert torch.equal(param.grad, torch.tensor([3.0, 0.0]))
        optimizer.param_groups[0]["lr"] = 0.25
        param.grad = torch.zeros(2)
        optimizer.step()
        assert torch.equal(param.grad, torch.tensor([0.0, expected])), units


SAVE = """
import sys, numpy as np, torch, hora.torch as hvd
hvd.init()
generator = torch.Generator().manual_seed(hvd.rank())
for name, op in (("mean", hvd.Average), ("sum", hvd.Sum)):
    for _ in range(2):
        g = torch.randint(-8, 9, (3000,), generator=generator).float()
        hvd.allreduce(g, name=name, op=op, compression=sys.argv[2])
with open(f"{sys.argv[1]}/{hvd.rank()}", "wb") as file:
    file.write(hvd.compression_state())
"""

# What is owed comes out when nothing new is asked for: everything, with a chain that sends all.
LOAD = """
import glob, json, sys, torch, hora.torch as hvd
hvd.init()
parts = [open(path, "rb").read() for path in sorted(glob.glob(sys.argv[1] + "/*"))]
hvd.load_compression_state(*parts)
totals = {}
for name, op in (("mean", hvd.Average), ("sum", hvd.Sum)):
    total = torch.zeros(3000, dtype=torch.float64)
    for _ in range(int(sys.argv[3])):
        total += hvd.allreduce(torch.zeros(3000), name=name, op=op, compression=sys.argv[2])
    totals[name] = total.tolist()
if hvd.rank() == 0:
    print(json.dumps(totals))
assert hvd.compression_memories()["lost"] == 0
"""


@needs_horarun
def test_what_is_owed_is_paid_by_any_number_of_ranks(tmp_path):
    """Top-k sends a tenth of a tensor each time, so the rest of the debt is paid in ten steps."""
    chain = "ef+topk:ratio=10%"
    run_ranks(4, "-c", SAVE, tmp_path, chain, check=True)
    paid = {}
    for ranks in (4, 2, 1, 8):
        job = run_ranks(ranks, "-c", LOAD, tmp_path, chain, "12", check=True)
        line = next(line for line in lines_of(job) if "mean" in line)
        paid[ranks] = json.loads(line[line.index("{") :])
    for name in ("mean", "sum"):
        assert np.abs(paid[4][name]).max() > 1
        for ranks in (2, 1, 8):
            np.testing.assert_allclose(paid[ranks][name], paid[4][name], atol=1e-4)


# Of two elements the larger one is sent; the other one is owed. The commit has seen that the first
# step owes 2, but not the second step, in which rank 1 dies.
ELASTIC = """
import os, signal, torch, hora.torch as hvd
hvd.init()
param = torch.nn.Parameter(torch.zeros(2))
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD([param], lr=1.0), [("w", param)], compression="ef+topk:ratio=50%"
)
state = hvd.elastic.TorchState(optimizer=optimizer, batch=0)

def step(*gradient):
    param.grad = torch.tensor(gradient)
    optimizer.step()

@hvd.elastic.run
def train(state):
    if hvd.size() == 2:
        step(4.0, 2.0)
        state.commit()
        step(4.0, 3.0)
        if hvd.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(0.0, 0.0)
    step(0.0, 0.0)
    print("paid", hvd.size(), param.grad.tolist(), flush=True)

train(state)
"""


@needs_horarun
def test_a_survivor_of_an_elastic_job_keeps_its_share_of_what_is_owed():
    """Two ranks owed 2 each, to the mean; now one of them is all there is."""
    options = ("-np", "2", "--min-np", "1", "--blacklist-after", "1")
    job = run_job(*options, sys.executable, "-c", ELASTIC, timeout=120)
    assert any("paid 1 [0.0, 1.0]" in line for line in lines_of(job)), job.stdout
