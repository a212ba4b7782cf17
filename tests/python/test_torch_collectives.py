"""Goal: every collective gives the exact result, for every type, shape, order of calls and form.

Method: real ranks; small integers as values, so that == holds for all types; random programs from a
seed that all ranks share, each shuffling them in its own way.
"""

import random

import pytest
import torch
from support import on_ranks

import hora.torch as hvd

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
SHAPES = [(), (1,), (0,), (3, 0, 2), (17,), (5, 7), (2, 3, 4), (70000,)]


def same(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(actual, expected), f"{actual} instead of {expected}"


def values(shape, dtype, rank, salt=0):
    """Small integers that differ by rank."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 7 + rank + salt) % 5 + 1).reshape(shape).to(dtype)


def all_values(shape, dtype, salt=0):
    return torch.stack([values(shape, torch.float64, r, salt) for r in range(hvd.size())])


@on_ranks(1, 2, 4)
def test_allreduce_sums_every_type_and_shape():
    for dtype in FLOATS + INTEGERS:
        for shape in SHAPES:
            mine = values(shape, dtype, hvd.rank())
            kept = mine.clone()
            total = all_values(shape, dtype).sum(0).to(dtype)
            name = f"sum.{dtype}.{shape}"
            same(hvd.allreduce(mine, op=hvd.Sum, name=name), total)
            same(mine, kept)
            assert hvd.allreduce_(mine, op=hvd.Sum, name=name) is mine
            same(mine, total)


@on_ranks(2, 4)
def test_allreduce_knows_all_reductions():
    for dtype in FLOATS:
        mine = values((33,), dtype, hvd.rank())
        every = all_values((33,), dtype)
        same(hvd.allreduce(mine, name=f"mean.{dtype}"), every.mean(0).to(dtype))
    for dtype in FLOATS + INTEGERS:
        mine = values((33,), dtype, hvd.rank(), 3)
        every = all_values((33,), dtype, 3)
        same(hvd.allreduce(mine, op=hvd.Min, name=f"min.{dtype}"), every.amin(0).to(dtype))
        same(hvd.allreduce(mine, op=hvd.Max, name=f"max.{dtype}"), every.amax(0).to(dtype))
        if dtype not in (torch.int8, torch.uint8, torch.bfloat16):  # 5^4 does not fit
            product = hvd.allreduce(mine, op=hvd.Product, name=f"product.{dtype}")
            same(product, every.prod(0).to(dtype))


@on_ranks(2)
def test_every_form_of_allreduce_takes_a_chain():
    """Three steps each, so that also what the memory adds is the same."""
    draw = torch.Generator().manual_seed(hvd.rank())
    steps = [torch.randn(3000, generator=draw) for _ in range(3)]

    def in_place(tensor, **terms):
        result = hvd.synchronize(hvd.allreduce_async_(tensor, **terms))
        assert result is tensor
        return result

    forms = {
        "sync": hvd.allreduce,
        "async": lambda *args, **terms: hvd.synchronize(hvd.allreduce_async(*args, **terms)),
        "in place": hvd.allreduce_,
        "async in place": in_place,
    }
    results = {
        form: [reduce(step.clone(), name=form, compression="onebit") for step in steps]
        for form, reduce in forms.items()
    }
    for form, result in results.items():
        for actual, expected in zip(result, results["sync"], strict=True):
            assert torch.equal(actual, expected), form
    exact = [hvd.allreduce_(step.clone(), name="exact") for step in steps]
    assert not torch.equal(exact[0], results["in place"][0])
    # What was once sent as it is does not go the short way with a chain, nor the other way about.
    again = hvd.allreduce_(steps[0].clone(), name="exact", compression="onebit")
    assert torch.equal(again, results["sync"][0])
    assert torch.equal(hvd.allreduce_(steps[0].clone(), name="exact"), exact[0])


@on_ranks(2)
def test_scales_apply_before_and_after():
    mine = values((9,), torch.float32, hvd.rank())
    total = all_values((9,), torch.float32).sum(0).float()
    scaled = hvd.allreduce(
        mine, op=hvd.Sum, name="scaled", prescale_factor=0.5, postscale_factor=8.0
    )
    same(scaled, total * 4)


@on_ranks(2, 4)
def test_groups_are_reduced_as_one():
    shapes = [(3,), (), (4, 5), (1000,)]
    mine = [values(shape, torch.float32, hvd.rank(), i) for i, shape in enumerate(shapes)]
    totals = [all_values(s, torch.float32, i).sum(0).float() for i, s in enumerate(shapes)]
    for actual, total in zip(hvd.grouped_allreduce(mine, name="g", op=hvd.Sum), totals):
        same(actual, total)
    handle = hvd.grouped_allreduce_async_(mine, name="g", op=hvd.Sum)
    for actual, given, total in zip(hvd.synchronize(handle), mine, totals):
        assert actual is given
        same(actual, total)


@on_ranks(2)
def test_a_group_may_have_tensors_of_several_types():
    size, rank = hvd.size(), hvd.rank()
    types = [torch.float64, torch.int32, torch.float64, torch.float32]
    mine = [values((4,), dtype, rank, i) for i, dtype in enumerate(types)]
    parts = [[values((4,), dtype, r, i) for r in range(size)] for i, dtype in enumerate(types)]
    totals = [sum(part) for part in parts]
    for form in (hvd.grouped_allreduce, hvd.grouped_allreduce, hvd.grouped_allreduce_):
        for actual, total in zip(form(mine, name="types", op=hvd.Sum), totals, strict=True):
            same(actual, total)
    gathered = hvd.grouped_allgather([part[rank] for part in parts], name="types gathered")
    for actual, part in zip(gathered, parts, strict=True):
        same(actual, torch.cat(part))
    mine = [part[rank] for part in parts]
    handle = hvd.grouped_reducescatter_async(mine, op=hvd.Sum)
    for actual, total in zip(hvd.synchronize(handle), totals, strict=True):
        same(actual, total.chunk(size)[rank])
    assert hvd.poll(handle) and hvd.synchronize(handle) is None


@on_ranks(2, 4)
def test_memory_that_is_not_contiguous_is_reduced_in_place_too():
    big = values((6, 8), torch.float32, hvd.rank())
    total = all_values((6, 8), torch.float32).sum(0).float()
    untouched = big.clone()
    hvd.allreduce_(big[:, ::2], op=hvd.Sum, name="strided")
    same(big[:, ::2], total[:, ::2])
    same(big[:, 1::2], untouched[:, 1::2])
    hvd.allreduce_(big.t(), op=hvd.Max, name="transposed")
    same(hvd.allreduce(untouched.t(), op=hvd.Sum, name="transposed out"), total.t())
    parameter = torch.nn.Parameter(values((4,), torch.float32, hvd.rank()))
    hvd.broadcast_(parameter, 0, name="leaf")
    same(parameter.detach(), values((4,), torch.float32, 0))


@on_ranks(1, 2, 4)
def test_allgather_joins_rows_of_different_numbers():
    size, rank = hvd.size(), hvd.rank()
    for dtype in [*FLOATS, *INTEGERS, torch.bool]:
        for tail in [(), (3,), (2, 2)]:
            parts = [values((r + 1, *tail), dtype, r) for r in range(size)]
            same(hvd.allgather(parts[rank], name=f"ag.{dtype}.{tail}"), torch.cat(parts))
    parts = [values((0 if r else 3,), torch.float32, r) for r in range(size)]
    same(hvd.allgather(parts[rank], name="only root has rows"), parts[0])
    same(hvd.allgather(torch.empty(0, 4), name="nobody has rows"), torch.empty(0, 4))
    first, second = hvd.grouped_allgather(
        [parts[rank], torch.tensor([1.0 * rank])], name="ag.group"
    )
    same(first, parts[0])
    same(second, 1.0 * torch.arange(size))


@on_ranks(1, 2, 4)
def test_broadcast_copies_from_any_root():
    for root in range(hvd.size()):
        for dtype in [*FLOATS, *INTEGERS, torch.bool]:
            mine = values((5, 3), dtype, hvd.rank())
            kept = mine.clone()
            expected = values((5, 3), dtype, root)
            same(hvd.broadcast(mine, root, name=f"b.{dtype}.{root}"), expected)
            same(mine, kept)
            same(hvd.broadcast_(mine, root, name=f"b.{dtype}.{root}"), expected)


@on_ranks(1, 2, 4)
def test_reducescatter_gives_the_first_ranks_one_row_more():
    size, rank = hvd.size(), hvd.rank()
    for rows in [size, 2 * size + 1, 1]:
        mine = values((rows, 3), torch.float32, rank)
        total = all_values((rows, 3), torch.float32).sum(0).float()
        counts = [rows // size + (r < rows % size) for r in range(size)]
        expected = total.split(counts)[rank]
        same(hvd.reducescatter(mine, op=hvd.Sum, name=f"rs.{rows}"), expected)
        same(hvd.reducescatter(mine, name=f"rs.{rows}"), expected / size)
    with pytest.raises(ValueError, match="scalar"):
        hvd.reducescatter(torch.tensor(1.0), name="rs.scalar")
    with pytest.raises(ValueError, match="only Sum and Average"):
        hvd.reducescatter(torch.ones(4), op=hvd.Max, name="rs.max")


@on_ranks(1, 2, 4)
def test_alltoall_sends_rows_where_splits_say():
    size, rank = hvd.size(), hvd.rank()
    # Rank r sends r + d + 1 rows to rank d; each row says from whom to whom.
    mine = torch.cat([torch.full((rank + d + 1, 2), 10.0 * rank + d) for d in range(size)])
    splits = torch.tensor([rank + d + 1 for d in range(size)], dtype=torch.int32)
    output, received = hvd.alltoall(mine, splits, name="a2a")
    same(received, torch.tensor([r + rank + 1 for r in range(size)], dtype=torch.int32))
    same(output, torch.cat([torch.full((r + rank + 1, 2), 10.0 * r + rank) for r in range(size)]))
    even = torch.arange(2 * size) + 100 * rank
    expected = torch.cat([torch.arange(2 * rank, 2 * rank + 2) + 100 * r for r in range(size)])
    same(hvd.alltoall(even, name="a2a.even"), expected)
    for wrong in [[1], [-1] * size, [5] * size]:
        with pytest.raises(ValueError, match="alltoall"):
            hvd.alltoall(torch.ones(2 * size + 1), wrong, name="a2a.wrong")


@on_ranks(2)
def test_gradients_flow_through_collectives():
    size, rank = hvd.size(), hvd.rank()
    x = torch.full((2, 3), 1.0 + rank, requires_grad=True)
    hvd.allreduce(x, op=hvd.Sum, name="d.sum").sum().backward()
    same(x.grad, torch.full((2, 3), float(size)))
    x.grad = None
    (hvd.allgather(x, name="d.gather") * torch.arange(2 * size).reshape(-1, 1)).sum().backward()
    same(x.grad, torch.tensor([[2.0 * rank] * 3, [2.0 * rank + 1] * 3]))
    x.grad = None
    hvd.broadcast(x, 1, name="d.broadcast").sum().backward()
    same(x.grad, torch.full((2, 3), 1.0 if rank == 1 else 0.0))
    x.grad = None
    output, _ = hvd.alltoall(x, [1, 1], name="d.alltoall")
    (output * (rank + 1)).sum().backward()
    same(x.grad, torch.tensor([[1.0] * 3, [2.0] * 3]))
    x.grad = None
    (hvd.reducescatter(x, name="d.scatter") * (rank + 1)).sum().backward()
    same(x.grad, torch.tensor([[1.0] * 3, [2.0] * 3]))


def start_randomly(shared, name, salt):
    """Starts one operation that all ranks choose alike; gives its handle and its result."""
    op = shared.choice([hvd.Sum, hvd.Max, hvd.Average])
    shape = (shared.choice([1, 5, 1000, 40000]),)
    form = shared.choice(["reduce", "reduce_", "gather", "cast", "mismatch"])
    mine = values(shape, torch.float32, hvd.rank(), salt)
    every = all_values(shape, torch.float32, salt)
    if form == "gather":
        return hvd.allgather_async(mine, name=name), every.reshape(-1).float()
    if form == "cast":
        root = salt % hvd.size()
        return hvd.broadcast_async_(mine, root, name=name), every[root].float()
    if form == "mismatch":
        return hvd.allreduce_async(torch.ones(1 + hvd.rank()), name=name), None
    start = hvd.allreduce_async if form == "reduce" else hvd.allreduce_async_
    combined = {hvd.Sum: every.sum(0), hvd.Max: every.amax(0), hvd.Average: every.mean(0)}
    return start(mine, name=name, op=op), combined[op].float()


def finish(handle, expected):
    if expected is None:
        with pytest.raises(hvd.Mismatch):
            hvd.synchronize(handle)
    else:
        same(hvd.synchronize(handle), expected)
    assert hvd.synchronize(handle) is None


@on_ranks(2, 4)
def test_results_do_not_depend_on_the_order_of_calls_and_waits():
    """Ranks wait in any order for operations of earlier rounds, which all have started."""
    own = random.Random(hvd.rank())
    earlier = []
    for turn in range(12):
        order = list(range(25))
        own.shuffle(order)
        started = []
        for i in order:
            shared = random.Random(1000 * turn + i)
            started.append(start_randomly(shared, f"random.{turn % 3}.{i}", i))
            if earlier and own.random() < 0.5:
                finish(*earlier.pop(own.randrange(len(earlier))))
            if own.random() < 0.2:
                hvd.poll(own.choice(started)[0])
        while len(earlier) > 5:
            finish(*earlier.pop(own.randrange(len(earlier))))
        earlier += started
    own.shuffle(earlier)
    for handle, expected in earlier:
        finish(handle, expected)


def refused(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@on_ranks(2, 4)
def test_disagreeing_ranks_all_get_the_same_error_and_go_on():
    rank, odd = hvd.rank(), hvd.rank() == 1
    cases = {
        "shape": lambda name: hvd.allreduce(torch.ones(3 if odd else 4), name=name),
        "dtype": lambda name: hvd.allreduce(
            torch.ones(4, dtype=torch.int32 if odd else torch.float32), name=name, op=hvd.Sum
        ),
        "op": lambda name: hvd.allreduce(torch.ones(4), name=name, op=hvd.Min if odd else hvd.Sum),
        "root": lambda name: hvd.broadcast(torch.ones(4), int(odd), name=name),
        "kind": lambda name: (
            hvd.allgather(torch.ones(4), name=name)
            if odd
            else hvd.allreduce(torch.ones(4), name=name)
        ),
        "tail": lambda name: hvd.allgather(torch.ones(2, 3 if odd else 4), name=name),
        "scale": lambda name: hvd.allreduce(
            torch.ones(4), name=name, prescale_factor=2.0 if odd else 1.0
        ),
    }
    for case, call in cases.items():
        text = refused(hvd.Mismatch, lambda call=call, case=case: call(f"mismatch.{case}"))
        assert f"mismatch.{case}" in text
        assert hvd.allgather_object(text, name="texts") == [text] * hvd.size()
        same(
            hvd.allreduce(torch.ones(2) * rank, name="after", op=hvd.Max),
            torch.ones(2) * (hvd.size() - 1),
        )


@on_ranks(2)
def test_mistakes_of_one_rank_are_its_own():
    first = hvd.allreduce_async(torch.ones(3), name="twice", op=hvd.Sum)
    if hvd.rank() == 0:
        # While the other rank cannot have answered, unless it is very quick: then it is no mistake.
        try:
            second = hvd.allreduce_async(torch.ones(3), name="twice", op=hvd.Sum)
        except ValueError as error:
            assert "twice" in str(error)
            second = None
    assert hvd.allgather_object(0, name="meet") == [0, 0]
    same(hvd.synchronize(first), torch.full((3,), 2.0))
    again = hvd.allgather_object(hvd.rank() == 0 and second is not None, name="again")
    if again[0]:
        mine = (
            second
            if hvd.rank() == 0
            else hvd.allreduce_async(torch.ones(3), name="twice", op=hvd.Sum)
        )
        same(hvd.synchronize(mine), torch.full((3,), 2.0))
    with pytest.raises(ValueError, match="complex64"):
        hvd.allreduce(torch.ones(2, dtype=torch.complex64), name="complex")
    with pytest.raises(ValueError, match="to_dense"):
        hvd.allreduce(torch.eye(2).to_sparse(), name="sparse")
    with pytest.raises(TypeError):
        hvd.allreduce_([1.0], name="list")
    with pytest.raises(ValueError, match="at least one"):
        hvd.grouped_allreduce([], name="no tensors")
    with pytest.raises(ValueError, match="adasum is not defined for int64"):
        hvd.allreduce(torch.ones(2, dtype=torch.int64), op=hvd.Adasum, name="adasum of integers")
    with pytest.raises(ValueError, match="supersedes"):
        hvd.allreduce(torch.ones(2), average=True, op=hvd.Sum)
    with pytest.raises(ValueError):
        hvd.broadcast(torch.ones(2), 7, name="no such root")


@on_ranks(2)
def test_compression_is_close_and_equal_on_all_ranks():
    mine = torch.randn(5000) + hvd.rank()
    exact = hvd.allreduce(mine, name="exact")
    half = hvd.allreduce(mine, name="half", compression=hvd.Compression.fp16)
    # A sum of two halves' rounding errors of 2^-11 each, and one of the sum.
    assert (half - exact).abs().max() <= 3 * 2**-11 * 6
    assert not torch.equal(half, exact)
    every = hvd.allgather(half.reshape(1, -1), name="halves")
    same(every[0], every[1])
    integers = torch.arange(5) + hvd.rank()
    total = hvd.allreduce(integers, name="int", op=hvd.Sum, compression=hvd.Compression.fp16)
    same(total, 2 * torch.arange(5) + 1)


@on_ranks(2)
def test_sparse_sums():
    rows = torch.tensor([[0, 2 + hvd.rank()]])
    mine = torch.sparse_coo_tensor(rows, torch.tensor([[1.0, 2], [3, 4]]), (5, 2))
    handle = hvd.sparse_allreduce_async(mine, "sparse sum", op=hvd.Sum)
    total = hvd.synchronize(handle)
    assert hvd.poll(handle) and hvd.synchronize(handle) is None
    expected = torch.tensor([[2.0, 4], [0, 0], [3, 4], [3, 4], [0, 0]])
    same(total.to_dense(), expected)


@on_ranks(2, 4)
def test_objects_travel():
    for root in (0, hvd.size() - 1):
        obj = (
            {"lr": 0.1, "who": hvd.rank(), "many": list(range(1000))}
            if hvd.rank() == root
            else None
        )
        got = hvd.broadcast_object(obj, root, name=f"object.{root}")
        assert got == {"lr": 0.1, "who": root, "many": list(range(1000))}
    assert hvd.allgather_object("x" * hvd.rank(), name="objects") == [
        "x" * r for r in range(hvd.size())
    ]


@on_ranks(4)
def test_process_sets_work_among_their_members():
    odd = hvd.add_process_set([1, 3])
    everybody = hvd.add_process_set(hvd.ProcessSet(range(4)))
    assert odd.process_set_id != everybody.process_set_id
    assert odd.included() == (hvd.rank() % 2 == 1)
    assert (odd.size(), odd.ranks) == (2, [1, 3])
    if odd.included():
        assert odd.rank() == hvd.rank() // 2
        total = hvd.allreduce(torch.tensor([hvd.rank()]), op=hvd.Sum, process_set=odd, name="odd")
        same(total, torch.tensor([4]))
        same(
            hvd.allgather(torch.tensor([hvd.rank()]), process_set=odd, name="o"),
            torch.tensor([1, 3]),
        )
        same(
            hvd.broadcast(torch.tensor([hvd.rank()]), 3, process_set=odd, name="ob"),
            torch.tensor([3]),
        )
    else:
        with pytest.raises(ValueError):
            hvd.allreduce(torch.ones(1), process_set=odd, name="odd")
    hvd.barrier()
    assert hvd.remove_process_set(odd)
    assert not hvd.remove_process_set(odd)
    with pytest.raises(ValueError, match="not added"):
        hvd.allreduce(torch.ones(1), process_set=odd)
    assert hvd.remove_process_set(everybody)


@on_ranks(2, 4)
def test_joined_ranks_take_part_with_zeros():
    for i in range(3 + hvd.rank()):
        total = hvd.allreduce(torch.ones(4), op=hvd.Sum, name=f"uneven.{i}")
        members = sum(i < 3 + r for r in range(hvd.size()))
        same(total, torch.full((4,), float(members)))
    assert 0 <= hvd.join() < hvd.size()
    same(
        hvd.allreduce(torch.ones(1), op=hvd.Sum, name="all back"), torch.tensor([float(hvd.size())])
    )


@on_ranks(2)
def test_questions_about_the_job_have_answers():
    assert hvd.is_initialized() and hvd.size() == 2 and hvd.rank() in (0, 1)
    assert (hvd.local_rank(), hvd.local_size()) == (hvd.rank(), 2)
    assert (hvd.cross_rank(), hvd.cross_size()) == (0, 1)
    assert hvd.is_homogeneous()
    assert not hvd.mpi_enabled() and not hvd.cuda_built() and hvd.nccl_built() == 0
    hvd.init()  # again: nothing happens
    assert hvd.size() == 2
