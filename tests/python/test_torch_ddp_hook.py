"""Goal: under DistributedDataParallel the hook gives what DDP alone gives, or what the chain says.

Method: real ranks, each with a gloo process group for DDP itself; gradients that are exact in
float32, so that == holds for `none`; small buckets, so that there are several.
"""

import contextlib
import tempfile

import pytest
import torch
import torch.distributed as dist
from support import on_ranks
from torch.nn.parallel import DistributedDataParallel

import hora.torch as hvd


@contextlib.contextmanager
def process_group():
    """DDP's own, over a file that rank 0 names."""
    with tempfile.TemporaryDirectory() as folder:
        place = hvd.broadcast_object(folder, 0)
        dist.init_process_group(
            "gloo", f"file://{place}/store", rank=hvd.rank(), world_size=hvd.size()
        )
        try:
            yield
        finally:
            hvd.barrier()
            dist.destroy_process_group()


def network():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 64, bias=False))


def wrapped(compression=None, model=None):
    model = model or network()
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.01)
    if compression is not None:
        state = hvd.DDPHookState(compression, model.named_parameters())
        ddp.register_comm_hook(state, hvd.ddp_comm_hook)
    return ddp


def gradients(ddp, step):
    """Whole numbers over all parameters, other ones on each rank and in each step."""
    for param in ddp.parameters():
        param.grad = None
    generator = torch.Generator().manual_seed(100 * step + hvd.rank())
    with torch.no_grad():
        for param in ddp.parameters():
            param.copy_(torch.randint(-2, 3, param.shape, generator=torch.Generator()))
    batch = torch.randint(-2, 3, (4, 64), generator=generator).float()
    ddp(batch).sum().backward()
    return [param.grad.clone() for param in ddp.parameters()]


@on_ranks(2, 4)
def test_without_a_chain_gradients_are_those_of_ddp():
    with process_group():
        plain, hooked = wrapped(), wrapped("none")
        for step in range(4):  # DDP rebuilds its buckets after the first
            expected = gradients(plain, step)
            assert any(bool(grad.any()) for grad in expected)
            for ours, theirs in zip(gradients(hooked, step), expected, strict=True):
                assert torch.equal(ours, theirs)


@on_ranks(2)
def test_bf16_is_as_close_as_bfloat16_is():
    with process_group():
        plain, hooked = wrapped(), wrapped("bf16")
        for step in range(3):
            pairs = zip(gradients(hooked, step), gradients(plain, step), strict=True)
            for ours, theirs in pairs:
                limit = 2.0**-7 * theirs.abs().max()
                assert (ours - theirs).abs().max() <= limit


@on_ranks(2)
def test_a_chain_sees_matrices_and_not_flat_buckets():
    """Of rank one, which these gradients are: PowerSGD is exact, up to rounding."""
    with process_group():
        linear = torch.nn.Linear(64, 48, bias=False)
        state = hvd.DDPHookState("powersgd:rank=1", linear.named_parameters())
        ddp = DistributedDataParallel(linear)
        ddp.register_comm_hook(state, hvd.ddp_comm_hook)
        batch = torch.arange(64.0).reshape(1, 64) * (1 + hvd.rank())
        for _ in range(3):
            ddp.zero_grad()
            ddp(batch).sum().backward()
            expected = torch.arange(64.0).expand(48, 64) * 1.5
            torch.testing.assert_close(linear.weight.grad, expected, rtol=1e-4, atol=1e-3)
        assert 0 < hvd.metrics()["wire_bytes"]


@on_ranks(2)
def test_training_goes_on_with_every_kind_of_chain():
    """The loss falls to a third, and all ranks have the same bits."""
    with process_group():
        target = network()
        for chain in ("none", "onebit", "powersgd:rank=4", "dgc:ratio=5%,m=0.5"):
            torch.manual_seed(7)
            model = torch.nn.Sequential(
                torch.nn.Linear(64, 96), torch.nn.Linear(96, 64, bias=False)
            )
            ddp = wrapped(chain, model)
            optimizer = torch.optim.SGD(ddp.parameters(), lr=1.0)
            losses = []
            generator = torch.Generator().manual_seed(hvd.rank())
            for _ in range(150):
                batch = torch.randn(16, 64, generator=generator)
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(ddp(batch), target(batch).detach())
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < losses[0] / 3, (chain, losses[0], losses[-1])
            flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            every = hvd.allgather(flat.reshape(1, -1))
            assert torch.equal(every[0], every[1]), chain


@on_ranks(2)
def test_a_chain_that_does_not_exist_is_said_in_backward():
    with process_group():
        ddp = wrapped("onbit")
        with pytest.raises((ValueError, RuntimeError), match="onebit"):
            ddp(torch.ones(1, 64)).sum().backward()
