"""Compressors written in Python: the chain's memory, agreement and errors around them are Hora's.

The compressors here are small enough that results are known exactly.
"""

import numpy as np
import pytest
import torch
from support import needs_horarun, on_ranks, run_program

import hora.torch as hvd
from hora import compression


class Halves(compression.Compressor):
    """Values as IEEE halves."""

    def payload_bytes(self, count):
        return 2 * count

    def encode(self, values, payload, step):
        payload.view(np.float16)[:] = values

    def decode(self, payload, values, step):
        values[:] = payload.view(np.float16)


class Largest(compression.Compressor):
    """The largest elements, by torch, with their indices."""

    contractive = exact_values = sparse = True

    def __init__(self, ratio: float = 0.5):
        self.ratio = ratio

    def payload_bytes(self, count):
        return 8 * max(1, round(self.ratio * count))

    def encode(self, values, payload, step):
        kept = len(payload) // 8
        indices = torch.from_numpy(values.copy()).abs().topk(kept).indices.numpy()
        payload[: 4 * kept].view(np.int32)[:] = indices
        payload[4 * kept :].view(np.float32)[:] = values[indices]

    def decode(self, payload, values, step):
        half = len(payload) // 2
        values[payload[:half].view(np.int32)] = payload[half:].view(np.float32)


class Failing(Halves):
    """Fails on one rank, in one of its methods."""

    def __init__(self, where: str = "encode", rank: int = 1, sparsely: bool = False):
        self.where, self.rank, self.sparse = where, rank, sparsely

    def encode(self, values, payload, step):
        if self.where == "encode" and step.rank == self.rank and not step.second:
            raise RuntimeError("out of ideas")
        super().encode(values, payload, step)

    def decode(self, payload, values, step):
        if self.where == "decode" and step.rank == self.rank:
            raise RuntimeError("out of ideas")
        super().decode(payload, values, step)


class Keeping(Halves):
    """Keeps what is only lent."""

    def encode(self, values, payload, step):
        self.kept = values[1:]
        super().encode(values, payload, step)


class Seeded(compression.Compressor):
    """Sends what the generators draw."""

    random = sparse = True

    def payload_bytes(self, count):
        return 4 * count

    def encode(self, values, payload, step):
        payload.view(np.float32)[:] = step.shared_generator().integers(0, 9, len(values))

    def decode(self, payload, values, step):
        expected = step.shared_generator().integers(0, 9, len(values))
        values[:] = payload.view(np.float32) == expected


for kind in (Halves, Largest, Failing, Keeping, Seeded):
    compression.register(kind)


def averaged(values, chain, name):
    return hvd.allreduce(torch.tensor(values), name=name, compression=chain).tolist()


@on_ranks(2, 3)
def test_values_make_their_way_through_python():
    values = [1.0 + hvd.rank(), -2.0, 0.5]
    middle = 1 + (hvd.size() - 1) / 2
    assert averaged(values, "noef+halves", "a") == [middle, -2, 0.5]
    assert averaged(values, Halves, "b") == [middle, -2, 0.5]
    assert hvd.allreduce(torch.ones(0), name="empty", compression="halves").numel() == 0


@on_ranks(2, 3)
def test_what_is_not_sent_is_sent_later():
    first = averaged([4.0, 1.0], "largest", "owed")
    assert first == [4, 0]
    assert averaged([0.0, 0.0], "largest", "owed") == [0, 1]
    assert averaged([4.0, 1.0], "noef+largest:ratio=50%", "lost") == [4, 0]
    assert averaged([0.0, 0.0], "noef+largest:ratio=50%", "lost") == [0, 0]


@on_ranks(2)
def test_keys_come_from_the_chain_or_the_object():
    assert averaged([4.0, 1.0], "noef+largest:ratio=100%", "keys") == [4, 1]
    assert averaged([4.0, 1.0], Largest(1.0), "object") == [4, 1]


@on_ranks(2)
def test_wrong_keys_are_refused_before_anything_is_sent():
    with pytest.raises(ValueError, match=r"ratio=much is no float"):
        averaged([1.0], "largest:ratio=much", "refused")
    with pytest.raises(ValueError, match=r"'largest' has no key 'ration'; did you mean 'ratio'"):
        averaged([1.0], "largest:ration=1%", "refused")
    with pytest.raises(ValueError, match="nothing can follow it"):
        averaged([1.0], "largest+fp16", "refused")


@on_ranks(2, 3)
def test_an_exception_on_one_rank_is_the_same_error_on_all_and_the_job_goes_on():
    for sparsely in ("true", "false"):
        for where in ("encode", "decode"):
            name = f"{where}.{sparsely}"
            chain = f"ef+failing:where={where},rank=1,sparsely={sparsely}"
            with pytest.raises(ValueError) as failed:
                averaged([1.0, 2.0], chain, name)
            text = str(failed.value)
            assert f"'{name}': compressor 'failing' failed on rank 1: " in text, text
            if hvd.rank() == 1:
                assert "RuntimeError: out of ideas (" in text
            assert averaged([1.0, 2.0], "none", "after") == [1, 2]


@on_ranks(2)
def test_an_array_must_not_be_kept():
    with pytest.raises(ValueError, match="kept an array|own error"):
        averaged([1.0, 2.0], "keeping", "kept")


@on_ranks(2)
def test_no_number_is_seen_by_all_without_asking_python():
    bad = float("nan") if hvd.rank() == 1 else 1.0
    result = averaged([bad, 1.0], "ef+failing:where=never", "poison")
    assert all(value != value for value in result)
    # Rank 0's message was taken back, and is sent with the next; rank 1 had made none.
    assert averaged([1.0, 2.0], "ef+failing:where=never", "poison") == [1.5, 2.5]


@on_ranks(2)
def test_generators_agree_on_all_ranks():
    assert averaged([0.0] * 20, "noef+seeded", "drawn") == [1.0] * 20


@on_ranks(2)
def test_an_optimizer_trains_with_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    sgd = hvd.DistributedOptimizer(sgd, model.named_parameters(), "ef+largest:ratio=25%")
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    inputs = torch.randn(16, 4)
    losses = []
    for _ in range(60):
        sgd.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    for part in model.parameters():
        assert hvd.allgather(part.detach()[None])[0].equal(part)


PROGRAM = """
import numpy as np, torch
import hora.torch as hvd
from hora import compression

class Mine(compression.Compressor):
    def payload_bytes(self, count): return 4 * count
    def encode(self, values, payload, step): payload.view(np.float32)[:] = values
    def decode(self, payload, values, step): values[:] = payload.view(np.float32)

compression.register(Mine)
hvd.init()
"""


@needs_horarun
def test_ranks_with_other_code_are_told_so():
    text = PROGRAM.replace("compression.register(Mine)\nhvd.init()\n", "hvd.init()\n")
    text = text.replace("class Mine", "import os\nclass Mine")
    text = text.replace("    def payload", "    version = os.environ['HORA_RANK']\n    def payload")
    text += """
try:
    hvd.allreduce(torch.ones(3), name="w", compression="noef+" + compression.register(Mine))
except hvd.Mismatch as error:
    print("told:", error)
print(hvd.allreduce(torch.ones(3), name="v").tolist())
"""
    job = run_program(2, text, check=True)
    assert job.stdout.count("told:") == 2
    assert "code=v0" in job.stdout and "code=v1" in job.stdout
    assert job.stdout.count("[1.0, 1.0, 1.0]") == 2


@needs_horarun
def test_a_program_may_end_while_an_exchange_is_under_way():
    text = (
        PROGRAM
        + """
model = torch.nn.Linear(1000, 100)
sgd = torch.optim.SGD(model.parameters(), 1.0)
sgd = hvd.DistributedOptimizer(sgd, model.named_parameters(), "ef+mine")
model(torch.ones(1, 1000)).sum().backward()
"""
    )
    run_program(2, text, check=True)


@needs_horarun
def test_a_job_may_have_it_for_all_gradients():
    text = (
        PROGRAM
        + """
model = torch.nn.Linear(3, 1, bias=False)
sgd = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), 1.0), model.named_parameters())
model.weight.data.zero_()
model(torch.full((1, 3), float(hvd.rank()))).sum().backward()
sgd.step()
print(model.weight.tolist())
"""
    )
    job = run_program(2, text, check=True, environment={"HORA_COMPRESSION": "noef+mine"})
    assert job.stdout.count("[[-0.5, -0.5, -0.5]]") == 2


def test_names_and_classes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="'topk' is the name of a stage or preset"):
        compression.register(Halves, "topk")
    with pytest.raises(ValueError, match="no name for a stage"):
        compression.register(Halves, "ef+x")
    with pytest.raises(TypeError, match="no subclass"):
        compression.register(dict)
    with pytest.raises(TypeError, match="has to define decode, encode, payload_bytes"):
        compression.register(type("Empty", (compression.Compressor,), {}))

    class Demanding(Halves):
        def __init__(self, ratio):
            self.ratio = ratio

    with pytest.raises(TypeError, match="'ratio' needs a number"):
        compression.register(Demanding)
