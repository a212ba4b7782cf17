"""Goal: op=Adasum combines vectors, and optimizers' steps, as its paper defines.

Method: real ranks; each of them knows all ranks' gradients and makes all ranks' steps with plain
optimizers, in float64, where inner products that are joined differently agree to the last bits.
"""

import copy

import pytest
import torch
from support import on_ranks

import hora.torch as hvd

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def adasum(vectors):
    """Neighbors first; one without a neighbor passes on."""
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2])
        vectors = [pair(x, y) for x, y in pairs] + vectors[len(vectors) // 2 * 2 :]
    return vectors[0]


def pair(x, y):
    xx, yy, xy = (x * x).sum(), (y * y).sum(), (x * y).sum()
    return (1 - xy / (2 * xx) if xx else 1) * x + (1 - xy / (2 * yy) if yy else 1) * y


def vector(rank, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@on_ranks(2, 3)
def test_collectives_combine_every_tensor_by_itself():
    size, rank = hvd.size(), hvd.rank()
    for dtype, close in [
        (torch.float64, CLOSE),
        (torch.float32, {"rtol": 1e-5, "atol": 1e-5}),
        (torch.bfloat16, {"rtol": 5e-2, "atol": 5e-2}),
    ]:
        expected = adasum([vector(r, 7, 3, dtype=dtype).double() for r in range(size)]).to(dtype)
        mine = vector(rank, 7, 3, dtype=dtype)
        name = f"adasum.{dtype}"
        actual = hvd.allreduce(mine, op=hvd.Adasum, name=name)
        torch.testing.assert_close(actual, expected, **close)
        every = hvd.allgather(actual.unsqueeze(0), name=f"{name}.all")
        assert (every == actual).all(), "ranks hold different bits"
        for result in hvd.grouped_allreduce([mine, 5 * mine], op=hvd.Adasum, name=f"{name}.group"):
            scale = 5 if result.norm() > 2 * actual.norm() else 1
            torch.testing.assert_close(result, scale * actual, **close)
    half = hvd.allreduce(mine.float(), op=hvd.Adasum, name="half", compression=hvd.Compression.fp16)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, actual.float(), rtol=5e-2, atol=5e-2)


@on_ranks(3)
def test_a_rank_that_has_joined_changes_nothing():
    if hvd.rank() < 2:
        expected = adasum([vector(r, 9) for r in range(2)])
        actual = hvd.allreduce(vector(hvd.rank(), 9), op=hvd.Adasum, name="without one")
        torch.testing.assert_close(actual, expected, **CLOSE)
    hvd.join()


def model_with_options():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 1)
    ).double()
    model[0].bias.requires_grad_(False)
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param.copy_(vector(100 + i, *param.shape))
    return model


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)


def backward(model, rank, turn):
    """The last layer is used by rank 1 only, and the bias of the first learns later."""
    output = model[1](model[0](vector(10 * turn + rank, 5, 3)))
    (model[2](output) if rank == 1 else output).square().mean().backward()


@on_ranks(2, 3)
def test_optimizers_step_apart_and_their_steps_are_combined():
    size, rank = hvd.size(), hvd.rank()
    model = model_with_options()
    optimizer = hvd.DistributedOptimizer(
        optimizer_of(model), model.named_parameters(), op=hvd.Adasum
    )
    models = [model_with_options() for _ in range(size)]
    plain = [optimizer_of(each) for each in models]
    for turn in range(4):
        if turn == 2:
            for each in (model, *models):
                each[0].bias.requires_grad_(True)
        backward(model, rank, turn)
        optimizer.step()
        optimizer.zero_grad()
        starts = copy.deepcopy(list(models[0].parameters()))
        for r in range(size):
            backward(models[r], r, turn)
            plain[r].step()
            plain[r].zero_grad()
        with torch.no_grad():
            for start, *after in zip(starts, *(each.parameters() for each in models)):
                moved = start + adasum([param - start for param in after])
                for param in after:
                    param.copy_(moved)
    for actual, expected in zip(model.parameters(), models[0].parameters()):
        torch.testing.assert_close(actual, expected, **CLOSE)


@on_ranks(2)
def test_a_scaler_that_finds_an_inf_on_one_rank_skips_there():
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([parameter], lr=0.25), [("p", parameter)], op=hvd.Adasum
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for turn in range(2):
        bad = turn == 0 and hvd.rank() == 1
        scaler.scale((parameter * (float("inf") if bad else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        # First rank 0's step alone, then two that are equal.
        assert parameter.tolist() == [0.75 - 0.25 * turn] * 4
    assert scaler.get_scale() == (4.0 if hvd.rank() == 1 else 8.0)


@on_ranks(2)
def test_options_of_horovod():
    parameter = torch.nn.Parameter(torch.full((4,), 1.0 + hvd.rank()))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([parameter], lr=1.0),
        [("p", parameter)],
        compression=hvd.Compression.fp16,
        backward_passes_per_step=2,
        op=hvd.Adasum,
    )
    hvd.broadcast_parameters([("p", parameter)], 0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        parameter.sum().backward()
    optimizer.synchronize()
    optimizer.step()
    scheduler.step()
    assert parameter.tolist() == [-1.0] * 4
    with pytest.raises(AssertionError, match="not supported"), optimizer.skip_synchronize():
        pass

    def closure():
        optimizer.zero_grad()
        loss = parameter.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == -4.0
    assert parameter.tolist() == [-1.5] * 4
    extra = torch.nn.Parameter(torch.zeros(2))
    optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.eye(2)[hvd.rank()]
    parameter.grad = None
    optimizer.step()
    assert extra.tolist() == [-1.0, -1.0]
    assert type(copy.copy(optimizer)) is torch.optim.SGD


@on_ranks(4)
def test_process_sets_combine_their_own_steps():
    mine = hvd.add_process_set([0, 2]), hvd.add_process_set([1, 3])
    own = mine[hvd.rank() % 2]
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([parameter], lr=1.0), [("p", parameter)], op=hvd.Adasum, process_set=own
    )
    parameter.grad = -torch.eye(4)[hvd.rank()]
    optimizer.step()
    assert parameter.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]][hvd.rank() % 2]
    hvd.barrier()
    for each in mine:
        hvd.remove_process_set(each)
