"""Goal: training with N ranks is training with N times the batch, whatever scripts do to gradients.

Method: real ranks; parameters and data whose sums are exact in float32, so that the distributed
optimizer and a plain one on the whole batch agree bit by bit where the order of sums allows it.
"""

import copy
import gc
import warnings

import pytest
import torch
from support import on_ranks

import hora.torch as hvd


def network():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def data(rank, step):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(4, 6, generator=generator), torch.randn(4, 1, generator=generator)


def loss_of(model, rank, step):
    x, y = data(rank, step)
    return ((model(x) - y) ** 2).mean()


def distributed(model, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5)
    return hvd.DistributedOptimizer(optimizer, model.named_parameters(), **options)


def equal_everywhere(model, name):
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    every = hvd.allgather(flat.reshape(1, -1), name=name)
    assert all(torch.equal(every[0], other) for other in every)


def gradient_of(parameters, factor=1.0):
    """A loss whose gradients are exact: `factor * (i + 1)` everywhere in the i-th parameter."""
    return sum((p * (i + 1) * factor).sum() for i, p in enumerate(parameters))


@on_ranks(1, 2, 4)
def test_training_equals_one_process_with_the_whole_batch():
    makers = [
        lambda p: torch.optim.SGD(p, lr=0.125, momentum=0.5, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01),
    ]
    for make in makers:
        for to_none in (True, False):
            model, reference = network(), network()
            optimizer, plain = (
                distributed(model, make(model.parameters())),
                make(reference.parameters()),
            )
            for step in range(4):
                optimizer.zero_grad(set_to_none=to_none)
                loss_of(model, hvd.rank(), step).backward()
                optimizer.step()
                plain.zero_grad()
                (
                    sum(loss_of(reference, r, step) for r in range(hvd.size())) / hvd.size()
                ).backward()
                plain.step()
            for ours, theirs in zip(model.parameters(), reference.parameters()):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
            equal_everywhere(model, "trained")


@on_ranks(2)
def test_after_a_step_gradients_are_exact_means_and_private():
    """Each rank scales its own gradients: they must differ by exactly that afterwards."""
    model = network()
    optimizer = distributed(model)
    for step in range(3):
        gradient_of(list(model.parameters()), 2.0 * hvd.rank() + 2).backward()
        optimizer.synchronize()
        for i, p in enumerate(model.parameters()):
            assert torch.equal(p.grad, torch.full_like(p, 3.0 * (i + 1)))
            p.grad.mul_(2.0 ** (hvd.rank() + 1))
        hvd.barrier()
        for i, p in enumerate(model.parameters()):
            assert torch.equal(p.grad, torch.full_like(p, 3.0 * (i + 1) * 2 ** (hvd.rank() + 1)))
        optimizer.zero_grad(set_to_none=step == 1)


@on_ranks(2)
def test_gradients_live_in_the_arena_once_they_were_there():
    model = network()
    optimizer = distributed(model)
    seen = []
    for step in range(4):
        gradient_of(list(model.parameters())).backward()
        optimizer.step()
        seen.append([p.grad.data_ptr() for p in model.parameters()])
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    assert seen[0] == seen[1] == seen[2] == seen[3]


@on_ranks(2)
def test_clipping_between_synchronize_and_step():
    model, reference = network(), network()
    optimizer = distributed(model)
    plain = torch.optim.SGD(reference.parameters(), lr=0.125, momentum=0.5)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model, hvd.rank(), step).backward()
        optimizer.synchronize()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        with optimizer.skip_synchronize():
            optimizer.step()
        plain.zero_grad()
        (sum(loss_of(reference, r, step) for r in range(2)) / 2).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.25)
        plain.step()
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    loss_of(model, hvd.rank(), 9).backward()
    optimizer.synchronize()
    with pytest.warns(UserWarning, match="without optimizer.skip_synchronize"):
        optimizer.step()


@on_ranks(2)
def test_a_second_backward_pass_is_refused_and_harms_nothing():
    model = network()
    optimizer = distributed(model)
    parameters = list(model.parameters())
    gradient_of(parameters, 1.0 + hvd.rank()).backward()
    with pytest.raises(AssertionError, match="backward_passes_per_step"):
        gradient_of(parameters, 100.0).backward()
    with pytest.raises(AssertionError, match="zero_grad"):
        optimizer.zero_grad()
    optimizer.synchronize()
    for i, p in enumerate(parameters):
        assert torch.equal(p.grad, torch.full_like(p, 1.5 * (i + 1)))
    with optimizer.skip_synchronize():
        optimizer.step()
    optimizer.zero_grad()


@on_ranks(2)
def test_backward_passes_add_up():
    model = network()
    optimizer = distributed(model, backward_passes_per_step=2)
    parameters = list(model.parameters())
    for passes in (2, 3, 1):
        optimizer.set_backward_passes_per_step(passes)
        for _ in range(passes):
            gradient_of(parameters, 1.0 + hvd.rank()).backward()
        optimizer.synchronize()
        for i, p in enumerate(parameters):
            assert torch.equal(p.grad, torch.full_like(p, 1.5 * passes * (i + 1)))
        optimizer.zero_grad()
    # Fewer than promised: what there is.
    optimizer.set_backward_passes_per_step(4)
    gradient_of(parameters, 2.0).backward()
    optimizer.synchronize()
    assert torch.equal(parameters[0].grad, torch.full_like(parameters[0], 2.0))


@on_ranks(2)
def test_replaced_gradients_are_what_is_reduced():
    p = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = distributed_on([("p", p)])
    mine = 1.0 + hvd.rank()
    replacements = [
        torch.full((3, 4), mine),
        torch.full((4, 3), mine).t(),
        torch.full((1, 1), mine).expand(3, 4),
        torch.full((6, 4), mine)[::2],
    ]
    for grad in replacements:
        p.grad = grad
        optimizer.synchronize()
        assert torch.equal(p.grad, torch.full((3, 4), 1.5))
    p.sum().backward()
    kept = p.grad
    optimizer.synchronize()
    assert kept is p.grad  # in place
    optimizer.zero_grad()
    (p * 10 * mine).sum().backward()
    optimizer.synchronize()
    assert torch.equal(kept, torch.full((3, 4), 2.5))  # not overwritten: still 1 + 1.5
    assert torch.equal(p.grad, torch.full((3, 4), 15.0))


def distributed_on(named, **options):
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.5)
    return hvd.DistributedOptimizer(optimizer, named, **options)


@on_ranks(2)
def test_graphs_of_gradients_are_reduced_where_they_are():
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = distributed_on([("p", p)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            (p**3).sum().mul(1.0 + hvd.rank()).backward(create_graph=True)
            optimizer.synchronize()
            assert p.grad.requires_grad
            assert torch.equal(p.grad.detach(), torch.tensor([4.5, 18.0]))
            p.grad = None


@on_ranks(2)
def test_unused_empty_scalar_and_frozen_parameters():
    used = torch.nn.Parameter(torch.ones(3))
    other = torch.nn.Parameter(torch.ones(2))
    nobodys = torch.nn.Parameter(torch.ones(2))
    empty = torch.nn.Parameter(torch.ones(0))
    scalar = torch.nn.Parameter(torch.tensor(2.0))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    named = list(zip("abcdef", [used, other, nobodys, empty, scalar, frozen]))
    optimizer = distributed_on(named)
    for _ in range(3):
        optimizer.zero_grad()
        loss = used.sum() * 2 + scalar * (1 + hvd.rank()) + empty.sum()
        if hvd.rank() == 0:
            loss = loss + other.sum() * 4
        loss.backward()
        optimizer.step()
        assert torch.equal(used.grad, torch.full((3,), 2.0))
        assert torch.equal(other.grad, torch.full((2,), 2.0))
        assert torch.equal(nobodys.grad, torch.zeros(2))
        assert torch.equal(scalar.grad, torch.tensor(1.5))
        assert frozen.grad is None


@on_ranks(2)
def test_every_float_type_and_layout():
    parameters = {
        "half": torch.nn.Parameter(torch.ones(5, dtype=torch.float16)),
        "brain": torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16)),
        "double": torch.nn.Parameter(torch.ones(5, dtype=torch.float64)),
        "channels": torch.nn.Parameter(
            torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
        ),
        "transposed": torch.nn.Parameter(torch.ones(3, 4).t()),
    }
    optimizer = distributed_on(list(parameters.items()))
    for _ in range(2):
        optimizer.zero_grad()
        sum(
            (p * torch.arange(p.numel()).reshape(p.shape)).sum().double() * (1 + hvd.rank())
            for p in parameters.values()
        ).backward()
        optimizer.step()
        for p in parameters.values():
            expected = (torch.arange(p.numel()).reshape(p.shape) * 1.5).to(p.dtype)
            assert torch.equal(p.grad, expected)
            assert p.grad.stride() == p.stride()


@on_ranks(2)
def test_scaling_and_other_reductions():
    p = torch.nn.Parameter(torch.ones(4))
    for options, expected in [
        ({"op": hvd.Sum}, 3.0),
        ({"gradient_predivide_factor": 2.0}, 1.5),
        ({"groups": 3}, 1.5),
        ({"compression": "none"}, 1.5),
        ({"compression": hvd.Compression.fp16}, 1.5),
    ]:
        optimizer = distributed_on([("p", p)], **options)
        for to_none in (True, False, True):
            (p * (1.0 + hvd.rank())).sum().backward()
            optimizer.synchronize()
            assert torch.equal(p.grad, torch.full((4,), expected)), options
            optimizer.zero_grad(set_to_none=to_none)
        del optimizer
        gc.collect()
        assert not p._post_accumulate_grad_hooks and not p._backward_hooks


@on_ranks(2)
def test_error_feedback_converges():
    p = torch.nn.Parameter(torch.linspace(-2, 3, 3000))
    optimizer = distributed_on([("p", p)], compression="onebit")
    for _ in range(60):
        optimizer.zero_grad()
        ((p - 1.0 - hvd.rank()) ** 2).sum().mul(0.05).backward()
        optimizer.step()
    assert (p - 1.5).abs().max() < 1.0
    equal_everywhere(torch.nn.ParameterList([p]), "onebit")


@on_ranks(2)
def test_two_optimizers_with_the_same_names_at_once():
    first, second = network(), network()
    optimizers = [distributed(first), distributed(second)]
    for _ in range(3):
        gradient_of(list(first.parameters())).backward()
        gradient_of(list(second.parameters()), 5.0).backward()
        for optimizer in optimizers[:: 1 if hvd.rank() else -1]:
            optimizer.step()
        assert torch.equal(second[0].bias.grad, torch.full((8,), 10.0))
        for optimizer in optimizers:
            optimizer.zero_grad()


@on_ranks(2)
def test_sparse_gradients():
    for as_dense in (True, False):
        table = torch.nn.Embedding(6, 2, sparse=True)
        optimizer = distributed_on([("table", table.weight)], sparse_as_dense=as_dense)
        for _ in range(2):
            optimizer.zero_grad()
            table(torch.tensor([0, 1 + hvd.rank()])).sum().backward()
            optimizer.step()
            assert table.weight.grad.is_sparse != as_dense
            expected = torch.tensor([1.0, 0.5, 0.5, 0, 0, 0]).reshape(-1, 1).expand(6, 2)
            assert torch.equal(table.weight.grad.to_dense(), expected)


@on_ranks(2)
def test_states_start_equal():
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(hvd.rank())
    optimizer = distributed(model, torch.optim.Adam(model.parameters(), lr=0.5 + hvd.rank()))
    if hvd.rank() == 1:  # only root has state
        gradient_of(list(model.parameters()))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with optimizer.skip_synchronize():
            optimizer.step()
        expected = copy.deepcopy(optimizer.state_dict())
    else:
        expected = None
    hvd.broadcast_parameters(model.state_dict(), 1)
    hvd.broadcast_parameters(model.named_parameters(), 1)
    hvd.broadcast_optimizer_state(optimizer, 1)
    equal_everywhere(model, "broadcast")
    expected = hvd.broadcast_object(expected, 1)
    actual = optimizer.state_dict()
    assert actual["param_groups"] == expected["param_groups"]
    assert actual["state"].keys() == expected["state"].keys()
    for key, state in expected["state"].items():
        for field, value in state.items():
            assert torch.equal(actual["state"][key][field], value)
    optimizer.zero_grad()
    gradient_of(list(model.parameters()), 1.0 + hvd.rank()).backward()
    optimizer.step()
    equal_everywhere(model, "went on")


@on_ranks(2)
def test_the_wrapper_is_an_optimizer_of_the_same_kind():
    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    early = torch.optim.lr_scheduler.StepLR(plain, 1, gamma=0.5)
    optimizer = distributed(model, plain)
    assert isinstance(optimizer, torch.optim.SGD)
    late = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    gradient_of(list(model.parameters())).backward()
    before = model[0].bias.detach().clone()
    optimizer.step()
    assert torch.equal(before - model[0].bias, torch.full((8,), 2.0))
    late.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert early.optimizer is plain
    extra = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [extra], "lr": 0.25})
    optimizer.zero_grad()
    (gradient_of(list(model.parameters())) + (extra * (1 + hvd.rank())).sum()).backward()
    optimizer.step()
    assert torch.equal(extra.grad, torch.full((2,), 1.5))

    def closure():
        optimizer.zero_grad()
        loss = gradient_of(list(model.parameters()), 1.0 + hvd.rank())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(model[0].bias.grad, torch.full((8,), 3.0))


@on_ranks(2)
def test_disagreement_about_a_gradient_is_an_error_for_all_and_training_goes_on():
    good = torch.nn.Parameter(torch.ones(4))
    bad = torch.nn.Parameter(torch.ones(3 + hvd.rank()))
    optimizer = distributed_on([("good", good), ("bad", bad)])
    (good.sum() + bad.sum()).backward()
    with pytest.raises(hvd.Mismatch, match="allreduce.bad"):
        optimizer.step()
    assert torch.equal(good.grad, torch.ones(4))
    optimizer = distributed_on([("good", good)])
    good.grad = None
    (good.sum() * (1 + hvd.rank())).backward()
    optimizer.step()
    assert torch.equal(good.grad, torch.full((4,), 1.5))


@on_ranks(2)
def test_wrong_arguments_are_told():
    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    names = list(model.named_parameters())
    wrong = [
        ({"named_parameters": [("same", p) for _, p in names]}, "unique"),
        ({"named_parameters": names[1:]}, "not named"),
        ({"named_parameters": [p for _, p in names]}, "tuples"),
        ({"backward_passes_per_step": 0}, "at least 1"),
        ({"op": hvd.Sum, "gradient_predivide_factor": 2.0}, "not supported"),
        ({"groups": -1}, "groups"),
    ]
    for options, text in wrong:
        with pytest.raises(ValueError, match=text):
            hvd.DistributedOptimizer(plain, **options)
    with pytest.raises(ValueError, match="Adasum does not go with compression='onebit'"):
        hvd.DistributedOptimizer(plain, op=hvd.Adasum, compression="onebit")
    unnamed = hvd.DistributedOptimizer(plain)
    gradient_of([p for _, p in names]).backward()
    unnamed.step()
