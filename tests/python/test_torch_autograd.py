"""Goal: gradients flow through every collective, alone, grouped and on process sets.

Method: real ranks; each weighs what it got by small integers of its own, so the gradient that
Horovod's users expect is known exactly. Theirs is a mean over ranks where the operation is one.
"""

import torch
from support import on_ranks

import hora.torch as hvd


def leaf(*shape):
    return torch.full(shape, 1.0 + hvd.rank(), requires_grad=True)


def weigh(result):
    """Its gradient is this rank's number + 1, everywhere."""
    (result * (hvd.rank() + 1)).sum().backward()


def mean_weight():
    return (hvd.size() + 1) / 2


@on_ranks(2, 3)
def test_through_allreduce_with_scales_and_groups():
    size = hvd.size()
    for op, factor in [(hvd.Sum, size), (hvd.Average, 1)]:
        x = leaf(2, 3)
        weigh(hvd.allreduce(x, op=op, prescale_factor=2.0, postscale_factor=4.0))
        assert torch.equal(x.grad, torch.full((2, 3), 8.0 * factor * mean_weight()))
        several = [leaf(3), leaf(1, 2).double().detach().requires_grad_(), leaf(4)]
        first, second, _ = hvd.grouped_allreduce(several, op=op)
        weigh(torch.cat([first.double(), second.flatten()]))
        for x, used in zip(several, (1, 1, 0)):
            assert torch.equal(x.grad, torch.full_like(x, used * factor * mean_weight()))


@on_ranks(2)
def test_through_allreduce_twice():
    x = leaf(3)
    total = hvd.allreduce(x * x, op=hvd.Sum)
    (first,) = torch.autograd.grad(total.sum(), x, create_graph=True)
    assert torch.equal(first.detach(), 2.0 * 2 * x.detach())
    first.sum().backward()
    # The inner sum over ranks doubles the outer gradient too.
    assert torch.equal(x.grad, torch.full((3,), 4.0))


@on_ranks(2, 3)
def test_through_allgather_of_different_rows():
    rank, size = hvd.rank(), hvd.size()
    x, y = leaf(rank + 1, 2), leaf(2)
    rows, others = hvd.grouped_allgather([x, y])
    assert rows.shape == (size * (size + 1) // 2, 2)
    weigh(rows * torch.arange(len(rows)).reshape(-1, 1) + others.sum())
    begin = rank * (rank + 1) // 2
    expected = mean_weight() * torch.arange(begin, begin + rank + 1).reshape(-1, 1).expand(-1, 2)
    assert torch.equal(x.grad, expected)
    assert torch.equal(y.grad, torch.full((2,), 2 * len(rows) * mean_weight()))


@on_ranks(2, 3)
def test_through_alltoall():
    rank, size = hvd.rank(), hvd.size()
    x = leaf(2 * size)
    weigh(hvd.alltoall(x))
    assert torch.equal(x.grad, torch.arange(1.0, size + 1).repeat_interleave(2))
    # One row to rank 0, none to rank 1, and the rest to the last.
    splits = torch.tensor([1, 0, 3][:size] if size == 3 else [1, 0], dtype=torch.int32)
    x = leaf(int(splits.sum()), 2)
    rows, received = hvd.alltoall(x, splits=splits)
    assert received.tolist() == [splits[rank]] * size and not received.requires_grad
    weigh(rows)
    weights = torch.arange(1.0, size + 1).repeat_interleave(splits)
    assert torch.equal(x.grad, weights.reshape(-1, 1).expand(-1, 2))


@on_ranks(2, 3)
def test_through_reducescatter():
    size = hvd.size()
    counts = [2] + [1] * (size - 1)  # of size + 1 rows
    weights = torch.arange(1.0, size + 1).repeat_interleave(torch.tensor(counts))
    for op, factor in [(hvd.Average, 1), (hvd.Sum, size)]:
        x = leaf(size + 1)
        weigh(hvd.reducescatter(x, op=op, prescale_factor=2.0))
        assert torch.equal(x.grad, 2.0 * factor * weights)
        several = [leaf(size + 1), leaf(size + 1)]
        first, second = hvd.grouped_reducescatter(several, op=op)
        weigh(first + 2 * second)
        assert torch.equal(several[0].grad, factor * weights)
        assert torch.equal(several[1].grad, 2 * factor * weights)


@on_ranks(3)
def test_through_process_sets():
    pair = hvd.add_process_set([0, 2])
    if pair.included():
        rank = pair.rank()
        x = leaf(3)
        weigh(hvd.allreduce(x, process_set=pair))
        assert torch.equal(x.grad, torch.full((3,), 2.0))  # of weights 1 and 3
        x = leaf(2)
        weigh(hvd.broadcast(x, 2, process_set=pair))
        assert torch.equal(x.grad, torch.full((2,), 2.0 * rank))
        x = leaf(1 + rank)
        weigh(hvd.allgather(x, process_set=pair))
        assert torch.equal(x.grad, torch.full((1 + rank,), 2.0))
        x = leaf(2)
        weigh(hvd.alltoall(x, process_set=pair))
        assert x.grad.tolist() == [1.0, 3.0]
        x = leaf(3)
        weigh(hvd.reducescatter(x, process_set=pair))
        assert x.grad.tolist() == [1.0, 1.0, 3.0]
    hvd.barrier()
    hvd.remove_process_set(pair)
