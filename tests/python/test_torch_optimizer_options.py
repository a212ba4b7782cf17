"""Goal: what scripts do to a DistributedOptimizer beside plain steps means what it means alone.

Method: real ranks; gradients that are exact, so that == holds. Freezing, loss scaling, process sets
and sparse gradients are compared with what one process would do.
"""

import pytest
import torch
from support import on_ranks

import hora.torch as hvd


def distributed(named, make=None, **options):
    parameters = [p for _, p in named]
    plain = make(parameters) if make else torch.optim.SGD(parameters, lr=0.5)
    return hvd.DistributedOptimizer(plain, named, **options)


def ones(*names):
    return [(name, torch.nn.Parameter(torch.ones(4))) for name in names]


def loss_of(named, factor=1.0):
    """Its gradients are `factor` everywhere."""
    return sum((p * factor).sum() for _, p in named)


def full(value):
    return torch.full((4,), float(value))


@on_ranks(2)
def test_a_layer_frozen_in_the_middle_stays_as_it_is():
    named = ones("frozen", "kept")
    frozen, kept = (p for _, p in named)
    optimizer = distributed(named, lambda p: torch.optim.SGD(p, lr=0.5, weight_decay=0.25))
    loss_of(named).backward()
    optimizer.step()
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(named, 1.0 + hvd.rank()).backward()
        optimizer.step()
        assert torch.equal(frozen, before) and frozen.grad is None
        assert torch.equal(kept.grad, full(1.5))
    frozen.requires_grad_(True)
    optimizer.zero_grad()
    loss_of(named, 1.0 + hvd.rank()).backward()
    optimizer.step()
    assert torch.equal(frozen.grad, full(1.5))


@on_ranks(2)
def test_a_layer_that_was_frozen_at_first_is_reduced_once_it_learns():
    named = ones("late", "kept")
    late = named[0][1].requires_grad_(False)
    optimizer = distributed(named)
    for thawed in (False, True, True):
        late.requires_grad_(thawed)
        optimizer.zero_grad()
        loss_of(named, 1.0 + hvd.rank()).backward()
        optimizer.step()
        assert torch.equal(named[1][1].grad, full(1.5))
        assert torch.equal(late.grad, full(1.5)) if thawed else late.grad is None
    extra = torch.nn.Parameter(torch.ones(4), requires_grad=False)
    optimizer.add_param_group({"params": [extra]})
    extra.requires_grad_(True)
    optimizer.zero_grad()
    loss_of([*named, ("extra", extra)], 1.0 + hvd.rank()).backward()
    optimizer.step()
    assert torch.equal(extra.grad, full(1.5))


@on_ranks(2)
def test_two_optimizers_whose_parameters_take_turns():
    generator, judge = ones("w", "v"), ones("w", "v")
    optimizers = [distributed(generator), distributed(judge)]
    for turn in range(4):
        active, idle = (generator, judge) if turn % 2 else (judge, generator)
        for named, needs in ((active, True), (idle, False)):
            for _, p in named:
                p.requires_grad_(needs)
        optimizer = optimizers[active is judge]
        optimizer.zero_grad()
        (loss_of(active, 1.0 + hvd.rank()) + loss_of(idle)).backward()
        optimizer.step()
        assert all(torch.equal(p.grad, full(1.5)) for _, p in active)


def train_with_scaler(fused, waits, overflows_at):
    named = ones("p")
    p = named[0][1]
    optimizer = distributed(named, lambda q: torch.optim.SGD(q, lr=0.5, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    values = []
    for step in range(4):
        optimizer.zero_grad()
        # Only one rank's loss overflows, but none may step.
        factor = float("inf") if step == overflows_at and hvd.rank() == 0 else 1.0 + hvd.rank()
        scaler.scale(loss_of(named, factor)).backward()
        if waits:
            optimizer.synchronize()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([p], 1e6)
            with optimizer.skip_synchronize():
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)
        scaler.update()
        values.append(p.detach().clone())
    assert scaler.get_scale() == 512.0
    return values


@on_ranks(2)
def test_loss_scaling_steps_on_unscaled_means_and_skips_together():
    expected = [full(1 - 0.75 * n) for n in (1, 2, 2, 3)]
    for fused in (False, True):
        for waits in (True, False):
            values = train_with_scaler(fused, waits, overflows_at=2)
            assert all(torch.equal(a, b) for a, b in zip(values, expected)), (fused, waits, values)


@on_ranks(2)
def test_no_warning_without_reason_and_one_with():
    import warnings

    named = ones("p")
    optimizer = distributed(named)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(named).backward()
        optimizer.synchronize()
        optimizer.zero_grad()  # a step that the script left out
        loss_of(named).backward()
        optimizer.step()
    optimizer.synchronize()
    with pytest.warns(UserWarning, match="without optimizer.skip_synchronize"):
        optimizer.step()


@on_ranks(2)
def test_groups_are_checked_and_change_no_result():
    named = ones("a", "b", "c")
    a, b, c = (p for _, p in named)
    for groups in (0, 2, [[a, b], [c]], [[b]], []):
        optimizer = distributed(named, groups=groups)
        optimizer.zero_grad()
        loss_of(named, 1.0 + hvd.rank()).backward()
        optimizer.step()
        assert all(torch.equal(p.grad, full(1.5)) for _, p in named)
    with pytest.warns(DeprecationWarning, match="groups"):
        distributed(named, num_groups=2)
    for wrong in (-1, "all", [a, b], [[a], [a]], [[1]]):
        with pytest.raises(ValueError, match="groups"):
            distributed(named, groups=wrong)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="gradient_predivide_factor"):
            distributed(named, gradient_predivide_factor=factor)
    for op in (hvd.Sum, hvd.Min):
        with pytest.raises(ValueError, match="not supported with op != Average"):
            distributed(named, op=op, gradient_predivide_factor=2.0)


@on_ranks(4)
def test_process_sets_train_apart_and_the_world_together():
    odd = hvd.add_process_set([1, 3])
    named = ones("p")
    p = named[0][1]
    if odd.included():  # others need not know of it, nor of how many there are
        for _ in range(2):
            optimizer = distributed(ones("p"), process_set=odd)
        optimizer = distributed(named, process_set=odd)
    else:
        optimizer = distributed(named, process_set=odd)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(named, 1.0 + hvd.rank()).backward()
        optimizer.step()
        assert torch.equal(p.grad, full(3 if odd.included() else 1 + hvd.rank()))
    del optimizer
    together = distributed(named)
    together.zero_grad()
    loss_of(named, 1.0 + hvd.rank()).backward()
    together.step()
    assert torch.equal(p.grad, full(2.5))
    assert hvd.remove_process_set(odd)


@on_ranks(2)
def test_a_rank_that_used_no_row_takes_part_in_a_sparse_sum():
    table = torch.nn.Embedding(6, 2, sparse=True)
    optimizer = distributed([("table", table.weight)], op=hvd.Sum)
    for step in range(3):
        optimizer.zero_grad()
        if step == 0 or hvd.rank() == 0:
            table(torch.tensor([1, 4])).sum().backward()
        optimizer.step()
        expected = torch.zeros(6, 2)
        expected[[1, 4]] = 1.0 if step else 2.0
        assert table.weight.grad.is_sparse
        assert torch.equal(table.weight.grad.to_dense(), expected)


@on_ranks(2)
def test_sparse_sums_travel_as_dense_ones_while_they_have_many_entries():
    def total(rows, name="density"):
        mine = torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(len(rows), 2), (40, 2))
        handle = hvd.sparse_allreduce_async(mine, name, op=hvd.Sum)
        return hvd.synchronize(handle), type(handle).__name__

    expected = torch.zeros(40, 2)
    ways = []
    for many in (True, True, True, False, False, False, True):
        rows = list(range(0, 40, 1 if many else 20)) + [0]
        result, way = total(rows)
        ways.append(way)
        expected.zero_()[rows] = 2.0
        expected[0] = 4.0
        assert torch.equal(result.to_dense(), expected) and result.is_sparse
        assert result.is_coalesced()
    dense, sparse = "_Densified", "_Gathered"
    assert ways == [sparse, dense, dense, dense, sparse, sparse, sparse]
    with pytest.raises(TypeError, match="expected a sparse"):
        hvd.sparse_allreduce_async(torch.ones(3), "no entries")
    with pytest.raises(ValueError, match="only Sum and Average"):
        hvd.sparse_allreduce_async(result, "largest entries", op=hvd.Max)


@on_ranks(2)
def test_passes_add_up_when_the_last_ones_come_from_a_closure():
    named = ones("p")
    p = named[0][1]
    optimizer = distributed(named, backward_passes_per_step=2, op=hvd.Sum)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(named, 1.0).backward()

        def closure():
            loss = loss_of(named, 1.0 + hvd.rank())
            loss.backward()
            return loss

        optimizer.step(closure)
        assert torch.equal(p.grad, full(5))


@on_ranks(2)
def test_a_momentum_in_the_chain_and_one_in_the_optimizer_are_refused():
    parameters = [p for _, p in ones("w")]
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    for make, chain, advice in (
        (lambda: sgd(parameters, lr=0.5, momentum=0.9), "dgc", "momentum=0.*m=0.9"),
        (lambda: sgd(parameters, lr=0.5, momentum=0.5), "mc:m=0.7+topk", "momentum=0.*m=0.5"),
        (lambda: adam(parameters), "none;rule=glob:w->dgc", r"betas=\(0, 0.999\).*m=0.9"),
    ):
        with pytest.raises(ValueError, match=advice):
            hvd.DistributedOptimizer(make(), compression=chain)
    for make, chain in (
        (lambda: sgd(parameters, lr=0.5), "dgc"),
        (lambda: sgd(parameters, lr=0.5, momentum=0.9), "dgc:m=0"),
        (lambda: sgd(parameters, lr=0.5, momentum=0.9), "ef+topk"),
    ):
        hvd.DistributedOptimizer(make(), compression=chain)


@on_ranks(2)
def test_momentum_in_a_chain_that_drops_nothing_is_the_optimizers():
    """What SGD with momentum does to means, `mc` does before them (Lin et al. 2018)."""
    plain, ours = (torch.nn.Parameter(torch.ones(64)) for _ in range(2))
    theirs = torch.optim.SGD([plain], lr=0.25, momentum=0.5)
    chain = "mc:m=0.5,mask=false+topk:ratio=100%"
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([ours], lr=0.25), compression=chain)
    for step in range(6):
        gradients = [torch.arange(64.0) - 8 * r * step for r in range(2)]
        plain.grad, ours.grad = sum(gradients) / 2, gradients[hvd.rank()].clone()
        theirs.step()
        optimizer.step()
        torch.testing.assert_close(ours.detach(), plain.detach(), rtol=1e-6, atol=1e-5)
