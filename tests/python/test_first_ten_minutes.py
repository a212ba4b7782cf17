"""Goal: what somebody who comes from Horovod or DDP does first works, or is told at once.

Method: real ranks, each habit as scripts have it; exact values.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
from support import on_ranks
from torch.optim import lr_scheduler, swa_utils
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import hora.torch as hvd


def network():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.5, **options})


def wrapped(model, plain=None, **options):
    return hvd.DistributedOptimizer(plain or sgd(model), model.named_parameters(), **options)


def backward(model, factor=1.0):
    """Gradients `factor * (i + 1)` everywhere in the i-th parameter."""
    sum((p * (i + 1) * factor).sum() for i, p in enumerate(model.parameters())).backward()


def file_of(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file


def read(file, **options):
    file.seek(0)
    return torch.load(file, **options)


def owned_bytes(tensor):
    return tensor.untyped_storage().nbytes()


@on_ranks(2)
def test_a_distributed_sampler_and_a_metric_every_few_steps():
    data = TensorDataset(torch.arange(24.0).reshape(12, 2))
    sampler = DistributedSampler(data, num_replicas=hvd.size(), rank=hvd.rank(), shuffle=True)
    model = torch.nn.Linear(2, 1)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = wrapped(model, sgd(model, lr=0.0625))
    seen, reduced = [], []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for step, (x,) in enumerate(DataLoader(data, batch_size=2, sampler=sampler)):
            optimizer.zero_grad()
            loss = model(x / 32).square().mean()
            loss.backward()
            optimizer.step()
            seen += x[:, 0].tolist()
            if step % 2 == 0:
                reduced.append(hvd.allreduce(torch.tensor(float(step)), name="metric").item())
                reduced.append(hvd.allreduce(torch.tensor(1.0 + hvd.rank())).item())
    assert reduced == [0.0, 1.5, 2.0, 1.5] * 2
    all_seen = sorted(sum(hvd.allgather_object(seen), []))
    assert all_seen == sorted(2 * list(range(0, 24, 2)))


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=1),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [1]
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 1)], optimizer=o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.25, 0.5, step_size_up=1),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=5),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.25),
}


def rates(scheduler, optimizer, model):
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        found.append(optimizer.param_groups[0]["lr"])
    return found


@on_ranks(2)
def test_every_learning_rate_scheduler_takes_the_wrapper_and_knows_that_it_stepped():
    """Made after wrapping, or before and around the plain optimizer: same rates and no warning."""
    kinds = {
        name
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)
    }
    assert kinds - {"LRScheduler", "_LRScheduler"} <= SCHEDULERS.keys()
    for name, make in SCHEDULERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "The epoch parameter", UserWarning)
            model = network()
            plain = sgd(model, momentum=0.5)
            expected = rates(make(plain), plain, model)
            model = network()
            late = wrapped(model, sgd(model, momentum=0.5))
            assert rates(make(late), late, model) == expected, name
            model = network()
            plain = sgd(model, momentum=0.5)
            early = make(plain)
            assert rates(early, wrapped(model, plain), model) == expected, name


@on_ranks(2)
def test_a_saved_gradient_takes_the_room_of_a_gradient():
    model = torch.nn.Sequential(torch.nn.Linear(1000, 100), torch.nn.Linear(100, 10))
    optimizer = wrapped(model)
    backward(model)
    optimizer.step()
    weight = model[1].weight
    file = file_of(weight.grad)
    assert len(file.getvalue()) < weight.numel() * 4 + 4096
    assert torch.equal(read(file), weight.grad)
    every = file_of([p.grad for p in model.parameters()])
    assert len(every.getvalue()) < sum(p.numel() for p in model.parameters()) * 4 + 8192
    for copied in (copy.deepcopy(weight.grad), pickle.loads(pickle.dumps(weight.grad))):
        assert torch.equal(copied, weight.grad)
        assert owned_bytes(copied) == weight.numel() * 4
        copied.zero_()
        assert weight.grad.abs().min() > 0  # the copy's memory is its own


@on_ranks(2)
def test_models_are_copied_and_saved_as_if_nobody_had_wrapped_them():
    model = network()
    optimizer = wrapped(model)
    backward(model)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for copied in (
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            read(file_of(model), weights_only=False),
            swa_utils.AveragedModel(model).module,
        ):
            assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters()))
            assert all(not p._post_accumulate_grad_hooks for p in copied.parameters())
            backward(copied, 100.0)  # harms nothing and sends nothing
        optimizer.zero_grad()
        backward(model, 1.0 + hvd.rank())
        optimizer.step()
        loaded = network()
        loaded.load_state_dict(read(file_of(model.state_dict())))
    assert torch.equal(model[0].weight.grad, torch.full((8, 6), 1.5))
    leaf = torch.ones(3, requires_grad=True)  # what is no Parameter takes its gradient along
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([leaf], lr=1.0), [("leaf", leaf)])
    leaf.sum().backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied, saved = copy.deepcopy(leaf), read(file_of(leaf))
    assert torch.equal(copied.grad, torch.ones(3)) and owned_bytes(copied.grad) == 12
    assert torch.equal(saved, leaf)
    copied.grad.zero_()
    assert torch.equal(leaf.grad, torch.ones(3))


@on_ranks(2)
def test_the_state_of_a_wrapped_optimizer_goes_into_a_plain_one_and_back():
    model = network()
    optimizer = wrapped(model, torch.optim.Adam(model.parameters(), lr=0.125))
    backward(model, 1.0 + hvd.rank())
    optimizer.step()
    checkpoint = read(file_of({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    other = network()
    other.load_state_dict(checkpoint["model"])
    plain = torch.optim.Adam(other.parameters())
    plain.load_state_dict(checkpoint["optimizer"])
    again = wrapped(other, plain)
    for one, its in ((model, optimizer), (other, again)):
        its.zero_grad()
        backward(one, 1.0 + hvd.rank())
        its.step()
    for ours, theirs in zip(model.parameters(), other.parameters()):
        assert torch.equal(ours, theirs)
    optimizer.load_state_dict(again.state_dict())


@on_ranks(2)
def test_a_state_loaded_into_either_optimizer_is_in_both():
    for loads in ("plain", "wrapper"):
        model = network()
        plain = sgd(model, momentum=0.5)
        early = lr_scheduler.StepLR(plain, 1, 0.5)
        optimizer = wrapped(model, plain)
        backward(model)
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0]["lr"] = 0.25
        (plain if loads == "plain" else optimizer).load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == plain.param_groups[0]["lr"] == 0.25
        buffers = [one.state[model[0].weight]["momentum_buffer"] for one in (plain, optimizer)]
        assert torch.equal(*buffers)
        optimizer.step()
        early.step()
        assert optimizer.param_groups[0]["lr"] == 0.125


@on_ranks(2)
def test_hooks_of_steps_run_once_and_see_reduced_gradients():
    model = network()
    optimizer = wrapped(model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(model[0].bias.grad[0].item()))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())  # torch wraps steps that it does not know
        optimizer.zero_grad()
        backward(model, 1.0 + hvd.rank())
        optimizer.step()
    assert seen == [3.0, "after"] * 2


@on_ranks(2)
def test_a_copied_or_pickled_optimizer_is_a_plain_one():
    model = network()
    optimizer = wrapped(model, torch.optim.Adam(model.parameters(), lr=0.125))
    backward(model)
    optimizer.step()
    with pytest.warns(UserWarning, match="plain Adam"):
        copied_model, copied = copy.deepcopy((model, optimizer))
    for other in (copied, pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is torch.optim.Adam
        assert other.param_groups[0]["lr"] == 0.125
        assert len(other.state) == len(optimizer.state) == 4
    assert copied.param_groups[0]["params"][0] is copied_model[0].weight
    before = model[0].weight.clone()
    backward(copied_model)
    copied.step()
    assert torch.equal(model[0].weight, before)
    backward(copied_model)
    again = wrapped(copied_model, copied)
    again.step()


@on_ranks(2)
def test_wrapping_twice_or_something_else_is_told():
    model = network()
    optimizer = wrapped(model)
    with pytest.raises(ValueError, match="wrapped already.*notebook"):
        hvd.DistributedOptimizer(optimizer)
    with pytest.raises(TypeError, match="expected a torch.optim.Optimizer, got Sequential"):
        hvd.DistributedOptimizer(model)
    with pytest.raises(TypeError, match="got SGD"):
        hvd.DistributedOptimizer(torch.optim.SGD)
    with pytest.raises(ValueError, match=r"Sequential.*pass model.state_dict\(\)"):
        hvd.broadcast_parameters(model, root_rank=0)
    with pytest.raises(TypeError, match=r"got float; send torch.tensor\(0.5\)"):
        hvd.allreduce(0.5)
    with pytest.raises(TypeError, match="got ndarray; send torch.from_numpy"):
        hvd.allreduce(torch.ones(2).numpy())


@on_ranks(2)
def test_a_cell_that_wraps_again_takes_the_parameters_over():
    model = network()
    cell = (
        "plain = torch.optim.SGD(model.parameters(), lr=0.5)\n"
        "optimizer = hvd.DistributedOptimizer(plain, model.named_parameters())\n"
        "kept.append(optimizer)\n"
        "def train(factor):\n"
        "    optimizer.zero_grad()\n"
        "    loss = sum((p * factor).sum() for p in model.parameters())\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "train(1.0 + hvd.rank())\n"
        "print('rank', hvd.rank(), 'of', hvd.size())\n"
    )
    namespace = {"torch": torch, "hvd": hvd, "model": model, "kept": []}  # as a notebook's, no main
    for _ in range(3):
        exec(cell, namespace)
        assert all(torch.equal(p.grad, torch.full_like(p, 1.5)) for p in model.parameters())
        assert all(len(p._post_accumulate_grad_hooks) == 1 for p in model.parameters())
    with pytest.raises(RuntimeError, match="0.weight belongs to another DistributedOptimizer"):
        namespace["kept"][0].step()
    assert hvd.broadcast_object(namespace["train"], 0, "a cell's function") is not None


@on_ranks(2)
def test_an_object_that_cannot_be_pickled_is_an_error_for_all():
    stubborn = (i for i in range(3))
    for call in (hvd.broadcast_object, hvd.allgather_object):
        with pytest.raises(TypeError if hvd.rank() == 0 else ValueError, match="pickle"):
            call(stubborn if hvd.rank() == 0 else "fine")
        assert hvd.allgather_object(hvd.rank()) == [0, 1]


@on_ranks(2)
def test_the_plain_optimizer_does_not_step_on_gradients_in_flight():
    model = network()
    plain = sgd(model)
    optimizer = wrapped(model, plain)
    backward(model, 1.0 + hvd.rank())
    with pytest.raises(RuntimeError, match="Call step.. of what DistributedOptimizer returned"):
        plain.step()
    optimizer.step()
    assert torch.equal(model[0].bias.grad, torch.full((8,), 3.0))
    plain.step()  # nothing is on its way


@on_ranks(2)
def test_without_zero_grad_gradients_add_up_as_they_do_alone():
    model, alone = network(), network()
    optimizer, plain = wrapped(model), sgd(alone)
    for _ in range(3):
        backward(model, 1.0 + hvd.rank())
        optimizer.step()
        backward(alone, 1.5)
        plain.step()
    for ours, theirs in zip(model.parameters(), alone.parameters()):
        assert torch.equal(ours.grad, theirs.grad)
        assert torch.equal(ours, theirs)


@on_ranks(2)
def test_a_step_without_backward_moves_nothing():
    model = network()
    optimizer = wrapped(model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
    backward(model, 1.0 + hvd.rank())
    optimizer.step()
    assert torch.equal(model[0].weight.grad, torch.full((8, 6), 1.5))


@on_ranks(2)
def test_a_second_backward_pass_names_both_remedies():
    model = network()
    optimizer = wrapped(model)
    loss = sum((p * p).sum() for p in model.parameters())
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="backward_passes_per_step.*DistributedOptimizer ret"):
        loss.backward()
    optimizer.step()
    optimizer.set_backward_passes_per_step(2)
    optimizer.zero_grad()
    loss = sum((p * (1.0 + hvd.rank())).sum() for p in model.parameters())
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    assert torch.equal(model[0].bias.grad, torch.full((8,), 3.0))


@on_ranks(2)
def test_a_model_that_changes_its_type_after_wrapping_goes_on():
    for chain in ("none", "onebit"):
        for to_none in (True, False):
            model = network()
            optimizer = wrapped(model, compression=chain)
            for dtype in (torch.float32, torch.bfloat16, torch.float32):
                model.to(dtype)
                for _ in range(2):
                    optimizer.zero_grad(set_to_none=to_none)
                    backward(model, 1.0 + hvd.rank())
                    optimizer.step()
                    for i, p in enumerate(model.parameters()):
                        assert p.grad.dtype == dtype
                        assert torch.equal(p.grad, torch.full_like(p, 1.5 * (i + 1)))
    model = network()
    optimizer = wrapped(model)
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    model[2].weight.data = torch.ones(3, 8)
    model[2].weight.sum().mul(1.0 + hvd.rank()).backward()
    optimizer.step()
    assert torch.equal(model[2].weight.grad, torch.full((3, 8), 1.5))


@on_ranks(2)
def test_layers_added_after_wrapping_join_by_a_group():
    model = network()
    optimizer = wrapped(model)
    model.append(torch.nn.Linear(1, 1))
    optimizer.add_param_group({"params": model[3].parameters()})
    backward(model, 1.0 + hvd.rank())
    optimizer.step()
    assert torch.equal(model[3].bias.grad, torch.full((1,), 9.0))


@on_ranks(2)
def test_a_group_added_to_the_plain_optimizer_is_reduced_too():
    model = network()
    plain = sgd(model)
    optimizer = wrapped(model, plain)
    model.append(torch.nn.Linear(1, 1))
    plain.add_param_group({"params": model[3].parameters()})
    for _ in range(2):
        optimizer.zero_grad()
        backward(model, 1.0 + hvd.rank())
        optimizer.step()
        assert torch.equal(model[3].bias.grad, torch.full((1,), 9.0))


@on_ranks(2)
def test_gradients_changed_on_their_way_are_told_with_what_to_do():
    changes = {
        "clipped": lambda p: torch.nn.utils.clip_grad_norm_(p, 0.5),
        "clipped by value": lambda p: torch.nn.utils.clip_grad_value_(p, 0.5),
        "scaled": lambda p: [one.grad.mul_(0.5) for one in p],
        "replaced": lambda p: setattr(p[1], "grad", p[1].grad * 2),
        "dropped": lambda p: setattr(p[1], "grad", None),
    }
    for chain in ("none", "onebit"):
        for name, change in changes.items():
            for to_none in (True, False):
                model = network()
                optimizer = wrapped(model, compression=chain)
                parameters = list(model.parameters())
                for _ in range(2):
                    optimizer.zero_grad(set_to_none=to_none)
                    backward(model)
                    change(parameters)
                    with pytest.raises(RuntimeError, match=r"0.\w+ was .* optimizer.synchronize"):
                        optimizer.step()
                optimizer.zero_grad(set_to_none=to_none)
                backward(model, 1.0 + hvd.rank())
                optimizer.synchronize()
                change(parameters)
                with optimizer.skip_synchronize():
                    optimizer.step()
                assert all(p.grad is not None or name == "dropped" for p in parameters)
    model = network()
    optimizer = wrapped(model)

    def late(param):
        param.grad.zero_()

    model[0].weight.register_post_accumulate_grad_hook(late)
    backward(model)
    with pytest.raises(RuntimeError, match="0.weight was changed after loss.backward"):
        optimizer.step()


@on_ranks(2)
def test_evaluation_and_inference_mode_with_collectives():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = wrapped(model)
    for context in (torch.no_grad, torch.inference_mode):
        model.eval()
        with context():
            values = model(torch.ones(3, 4) * hvd.rank())
            correct = torch.tensor(3 + hvd.rank())
            assert hvd.allreduce(correct, op=hvd.Sum, name="correct").item() == 7
            assert hvd.allreduce_(values.clone(), name="values").shape == (3, 4)
            assert hvd.allgather(values, name="rows").shape == (6, 4)
        if hvd.rank() == 0:  # an evaluation that only rank 0 makes, without collectives
            model(torch.ones(200, 4)).sum().item()
        model.train()
        optimizer.zero_grad()
        model(torch.randn(6, 4)).sum().backward()
        optimizer.step()
    buffers = hvd.allgather(model[1].running_mean.reshape(1, 4), name="buffers")
    assert buffers.shape == (2, 4)


@on_ranks(2)
def test_a_closure_gives_the_mean_loss_and_lbfgs_stays_together():
    for options in ({}, {"line_search_fn": "strong_wolfe"}):
        torch.manual_seed(3)
        model = torch.nn.Linear(3, 1)
        optimizer = wrapped(
            model, torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=8, **options)
        )
        torch.manual_seed(10 + hvd.rank())
        x, y = torch.randn(16, 3), torch.randn(16, 1)
        calls = 0

        def closure(model=model, optimizer=optimizer, x=x, y=y):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(3)]
        everywhere = hvd.allgather_object((calls, losses, model.weight.tolist()))
        assert everywhere[0] == everywhere[1]
        assert losses[-1] < losses[0]


class Careful(torch.optim.SGD):
    """Somebody's optimizer that decides by the loss."""

    def step(self, closure=None):
        loss = closure()
        if loss < 1.75:
            super().step()
        return loss


@on_ranks(2)
def test_only_an_optimizer_that_may_decide_by_the_loss_gets_the_mean_of_it():
    model = network()

    def stepped(optimizer, loss):
        def closure():
            optimizer.zero_grad()
            backward(model, 1.0 + hvd.rank())
            return loss

        return optimizer.step(closure)

    own = 1.0 + hvd.rank()
    optimizer = wrapped(model)
    assert stepped(optimizer, torch.tensor(own)) == own
    assert stepped(optimizer, "only here" if hvd.rank() == 0 else None) != own
    optimizer = wrapped(model, Careful(model.parameters(), lr=0.5))
    before = model[0].bias.clone()
    for loss in (torch.tensor(own), own):
        assert stepped(optimizer, loss) == 1.5
    assert torch.equal(model[0].bias, before - 2 * 0.5 * 3.0)
    assert stepped(wrapped(model), None) is None


@on_ranks(2)
def test_flush_denormal_on_one_rank_changes_no_rank_apart():
    tiny = torch.tensor([2.0**-140, 2.0**-149, -(2.0**-130), 1.0])
    set_here = hvd.rank() == 0 and torch.set_flush_denormal(True)
    try:
        for name in ("tiny", "tiny"):
            summed = hvd.allreduce(tiny, op=hvd.Sum, name=name)
            bits = hvd.allgather(summed.view(torch.int32).reshape(1, 4), name="bits")
            assert torch.equal(bits[0], bits[1])
    finally:
        torch.set_flush_denormal(False)
    assert summed[3] == 2.0
    assert hvd.allgather(torch.tensor([bool(set_here)]), name="set")[1].item() is False


class Tied(torch.nn.Module):
    """One weight, used at both ends, as in language models."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.letters, self.head = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.letters.weight

    def forward(self, x):
        return self.head(self.letters(x.long()))


@on_ranks(2)
def test_checkpointed_compiled_and_tied_networks_learn_as_they_do_alone():
    uses = {
        "checkpoint, reentrant": (network, lambda net, x: checkpoint(net, x, use_reentrant=True)),
        "checkpoint": (network, lambda net, x: checkpoint(net, x, use_reentrant=False)),
        "compile": (network, lambda net, x: torch.compile(net, backend="eager")(x)),
        "tied": (Tied, lambda net, x: net(x)),
    }
    x = torch.arange(6.0).reshape(1, 6).requires_grad_()
    for name, (make, use) in uses.items():
        model, alone = make(), make()
        optimizer, plain = wrapped(model), sgd(alone)
        for _ in range(2):
            for one, its, factor in ((model, optimizer, 1.0 + hvd.rank()), (alone, plain, 1.5)):
                its.zero_grad()
                (use(one, x).sum() * factor).backward()
                its.step()
        for ours, theirs in zip(model.parameters(), alone.parameters()):
            assert torch.allclose(ours, theirs, rtol=1e-5), name


@on_ranks(2)
def test_optimizers_of_every_make_take_gradients_of_the_arena():
    makers = {
        "fused": lambda p: torch.optim.Adam(p, lr=0.125, fused=True),
        "foreach": lambda p: torch.optim.AdamW(p, lr=0.125, foreach=True),
        "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.125),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.125, momentum=0.5),
        "Rprop": lambda p: torch.optim.Rprop(p, lr=0.125),
        "NAdam": lambda p: torch.optim.NAdam(p, lr=0.125),
    }
    for name, make in makers.items():
        model, alone = network(), network()
        optimizer, plain = wrapped(model, make(model.parameters())), make(alone.parameters())
        for _ in range(2):
            for one, its, factor in ((model, optimizer, 1.0 + hvd.rank()), (alone, plain, 1.5)):
                its.zero_grad()
                backward(one, factor)
                its.step()
        for ours, theirs in zip(model.parameters(), alone.parameters()):
            assert torch.equal(ours, theirs), name
