"""Goal: gradients come to the arena by the short way or the long one, and nobody can tell which.

Method: every kind of memory that `p.grad` may be at the end of a backward pass, on two ranks,
beside exact means; and that what a program has kept of an earlier step stays as it was.
"""

import pytest
import torch
from support import on_ranks

import hora.torch as hvd


def wrapped(*shapes, dtype=torch.float32):
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    optimizer = torch.optim.SGD(params, lr=1.0)
    names = [(f"p{i}", p) for i, p in enumerate(params)]
    return params, hvd.DistributedOptimizer(optimizer, names)


def backward(params, factor):
    """Gives each element of the i-th parameter the gradient factor * (i + 1)."""
    torch.autograd.backward([(p * (i + 1) * factor).sum() for i, p in enumerate(params)])


@on_ranks(2)
def test_memory_of_every_size_and_type_is_reduced_each_step():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        params, optimizer = wrapped((), (3,), (5, 7), (70_000,), (300, 400), dtype=dtype)
        for step in range(4):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            backward(params, float(2 * hvd.rank() + step))
            optimizer.synchronize()
            for i, p in enumerate(params):
                assert torch.equal(p.grad, torch.full_like(p, (1 + step) * (i + 1)))
                assert p.grad.dtype is dtype


@on_ranks(2)
def test_gradients_set_anew_keep_their_place_in_the_arena():
    params, optimizer = wrapped((4,), (70_000,))
    places = set()
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        backward(params, 1.0)
        optimizer.synchronize()
        places.add(tuple(p.grad.data_ptr() for p in params))
    assert len(places) == 1


@on_ranks(2)
def test_what_was_kept_of_a_step_stays():
    params, optimizer = wrapped((4,), (70_000,))
    kept = []
    for step in range(4):
        optimizer.zero_grad(set_to_none=True)
        backward(params, float(step))
        optimizer.synchronize()
        kept.append([p.grad for p in params])
    for step, grads in enumerate(kept):
        for i, grad in enumerate(grads):
            assert torch.equal(grad, torch.full_like(grad, step * (i + 1)))


@on_ranks(2)
def test_memory_that_holds_negatives_or_lies_elsewhere():
    (p,), optimizer = wrapped((6,))
    values = torch.arange(6.0) + hvd.rank()
    expected = torch.arange(6.0) + 0.5

    def instead(make):
        # A hook that was there first: it runs before the gradient is submitted.
        optimizer.zero_grad(set_to_none=True)
        p.grad = make()
        optimizer.synchronize()
        assert torch.equal(p.grad, expected)

    instead(lambda: torch._neg_view(-values))
    instead(lambda: torch.stack([values, values], dim=1)[:, 0])
    instead(lambda: values.clone().requires_grad_())
    instead(lambda: values.clone())


@on_ranks(2)
def test_the_same_from_inside_the_backward_pass():
    (p,), optimizer = wrapped((6,))
    values = torch.arange(6.0) + hvd.rank()

    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, make):
            ctx.make = make
            return x.sum()

        @staticmethod
        def backward(ctx, _):
            return ctx.make(), None

    for make in (
        lambda: torch._neg_view(-values),
        lambda: torch.stack([values, values], dim=1)[:, 0],
    ):
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            Odd.apply(p, make).backward()
            optimizer.synchronize()
            assert torch.equal(p.grad, torch.arange(6.0) + 0.5)


@on_ranks(2)
def test_one_that_fails_leaves_the_others_reduced():
    params, optimizer = wrapped((3,), (4 if hvd.rank() == 0 else 5,), (6,))
    backward(params, float(hvd.rank()))
    with pytest.raises(hvd.Mismatch, match="p1"):
        optimizer.synchronize()
    for i in (0, 2):
        assert torch.equal(params[i].grad, torch.full_like(params[i], 0.5 * (i + 1)))
