"""The short way of calls made before gives what the long way gives, whatever changes between them.

Each case is called three times with the same name: new, like the one before (the short way), and
after a call of another kind under that name.
"""

import pytest
import torch
from support import on_ranks

import hora
import hora.torch as hvd
from hora import runtime


def values(shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) % 7 + 1 + hvd.rank()).to(dtype).view(shape)


def expected_sum(shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    one = torch.arange(count, dtype=torch.float64) % 7 + 1
    return (one * hvd.size() + sum(range(hvd.size()))).to(dtype).view(shape)


def reduce(tensor, name="again", **terms):
    result = hvd.synchronize(hvd.allreduce_async_(tensor, name=name, **terms))
    assert result is tensor
    return result


def took_the_short_way(tensor, name="again", **terms):
    handle = hvd.allreduce_async_(tensor, name=name, **terms)
    short = runtime.session().calls.holds(handle)
    assert hvd.poll(handle) in (True, False)
    hvd.synchronize(handle)
    assert hvd.poll(handle)
    return short


@on_ranks(2)
def test_the_second_call_takes_the_short_way_with_whatever_tensor():
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return
    assert not took_the_short_way(values((3, 4)), "short", op=hvd.Sum)
    assert took_the_short_way(values((3, 4)), "short", op=hvd.Sum)
    assert took_the_short_way(values((3, 4)), "short", op=hvd.Sum)
    assert not took_the_short_way(values((3, 4)), "short", op=hvd.Max)
    assert took_the_short_way(values((3, 4)), "short", op=hvd.Max)


@on_ranks(2)
def test_changes_between_calls_are_noticed():
    for change in range(2):
        for shape in ((3, 4), (4, 3), (12,), (), (0,), (1, 12)):
            for dtype in (torch.float32, torch.float64, torch.int32, torch.bfloat16):
                for _ in range(1 + change):
                    result = reduce(values(shape, dtype), op=hvd.Sum)
                    assert torch.equal(result, expected_sum(shape, dtype)), (shape, dtype)


@on_ranks(2)
def test_memory_that_is_not_plain_takes_the_long_way():
    plain = expected_sum((4, 4))
    for _ in range(3):
        assert torch.equal(reduce(values((4, 4)), op=hvd.Sum), plain)
        turned = values((4, 4)).t()
        assert torch.equal(reduce(turned, op=hvd.Sum), plain.t())
        every_other = torch.zeros(4, 8)[:, ::2]
        every_other.copy_(values((4, 4)))
        assert torch.equal(reduce(every_other, op=hvd.Sum), plain)
        negative = torch._neg_view(-values((4, 4)))
        assert negative.is_neg()
        assert torch.equal(reduce(negative, op=hvd.Sum), plain)


@on_ranks(2)
def test_terms_count():
    for _ in range(2):
        assert torch.equal(reduce(values((5,)), op=hvd.Sum), expected_sum((5,)))
        assert torch.equal(reduce(values((5,))), expected_sum((5,)) / hvd.size())
        scaled = reduce(values((5,)), op=hvd.Sum, prescale_factor=2.0, postscale_factor=0.5)
        assert torch.equal(scaled, expected_sum((5,)))
        doubled = reduce(values((5,)), op=hvd.Sum, prescale_factor=2.0)
        assert torch.equal(doubled, 2 * expected_sum((5,)))


@on_ranks(2)
def test_groups():
    for shapes in ([(3,), (2, 2), ()], [(2, 2), (3,)], [(7,)]):
        for _ in range(3):
            group = [values(shape) for shape in shapes]
            handle = hvd.grouped_allreduce_async_(group, name="group", op=hvd.Sum)
            for result, tensor, shape in zip(hvd.synchronize(handle), group, shapes, strict=True):
                assert result is tensor
                assert torch.equal(result, expected_sum(shape))


@on_ranks(2)
def test_parameters_and_requires_grad():
    for _ in range(3):
        parameter = torch.nn.Parameter(values((3,)))
        with torch.no_grad():
            assert torch.equal(reduce(parameter, op=hvd.Sum), expected_sum((3,)))


@on_ranks(2)
def test_a_mismatch_on_the_short_way_is_told_and_forgotten():
    for _ in range(2):
        reduce(values((4,)), "same", op=hvd.Sum)
    with pytest.raises(hora.Mismatch, match="same"):
        reduce(values((4,)) if hvd.rank() == 0 else values((2, 2)), "same", op=hvd.Sum)
    assert torch.equal(reduce(values((4,)), "same", op=hvd.Sum), expected_sum((4,)))
