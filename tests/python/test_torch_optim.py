"""Goal: Signum, 1-bit Adam and 0/1 Adam compute their equations, and train.

Method: real ranks. With the chain `none` each is compared with the same equations, written out
again for all ranks in one process; with its own chain it brings a convex problem's loss down, and
all ranks have the same bits.
"""

import copy

import pytest
import torch
from support import on_ranks

import hora.torch as hvd
from hora.torch.optim import OneBitAdam, Signum, ZeroOneAdam

COUNT = 33


def gradient_of(step, rank):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(COUNT, generator=generator)


def steps(make, number, rates=None):
    """The parameters after each step on gradients that are given."""
    torch.manual_seed(2)
    param = torch.nn.Parameter(torch.randn(COUNT))
    optimizer = make([param])
    values = []
    for step in range(number):
        if rates:
            optimizer.param_groups[0]["lr"] = rates[step]
        param.grad = gradient_of(step, hvd.rank())
        optimizer.step()
        values.append(param.detach().clone())
    return values


def start(ranks):
    torch.manual_seed(2)
    return [torch.randn(COUNT)] * ranks


@on_ranks(1, 2, 4)
def test_signum_moves_by_the_majority_of_signs():
    ranks = hvd.size()
    values = steps(lambda p: Signum(p, lr=0.25, momentum=0.5, weight_decay=0.125), 6)
    x = start(1)[0]
    momenta = [torch.zeros(COUNT) for _ in range(ranks)]
    for step in range(6):
        momenta = [0.5 * m + 0.5 * gradient_of(step, r) for r, m in enumerate(momenta)]
        votes = sum(torch.where(m >= 0, 1, -1) for m in momenta)
        x = x - 0.25 * (torch.where(votes >= 0, 1.0, -1.0) + 0.125 * x)
        torch.testing.assert_close(values[step], x, rtol=0, atol=1e-5)


@on_ranks(2)
def test_one_bit_adam_is_adam_until_its_variance_is_frozen():
    values = steps(lambda p: OneBitAdam(p, lr=0.1, weight_decay=0.01, freeze_step=5), 5)
    torch.manual_seed(2)
    param = torch.nn.Parameter(torch.randn(COUNT))
    plain = torch.optim.AdamW([param], lr=0.1, weight_decay=0.01)
    for step in range(5):
        param.grad = sum(gradient_of(step, r) for r in range(2)) / 2
        plain.step()
        torch.testing.assert_close(values[step], param.detach(), rtol=1e-5, atol=1e-6)


@on_ranks(1, 2, 4)
def test_one_bit_adam_shares_momenta_once_its_variance_is_frozen():
    ranks, frozen, beta1, beta2 = hvd.size(), 3, 0.75, 0.9
    values = steps(
        lambda p: OneBitAdam(
            p, lr=0.1, betas=(beta1, beta2), freeze_step=frozen, compression="none"
        ),
        8,
    )
    x, m, v = start(1)[0], torch.zeros(COUNT), torch.zeros(COUNT)
    for step in range(8):
        gradients = [gradient_of(step, r) for r in range(ranks)]
        m = sum(beta1 * m + (1 - beta1) * g for g in gradients) / ranks
        if step < frozen:
            v = beta2 * v + (1 - beta2) * (sum(gradients) / ranks) ** 2
        root = (v / (1 - beta2 ** min(step + 1, frozen))).sqrt() + 1e-8
        x = x - 0.1 * m / (1 - beta1 ** (step + 1)) / root
        torch.testing.assert_close(values[step], x, rtol=1e-4, atol=1e-5)


@on_ranks(2)
def test_what_never_had_a_gradient_does_not_move_when_one_bit_says_that_it_does():
    for make in (
        lambda p: OneBitAdam(p, lr=0.1, freeze_step=2),
        lambda p: ZeroOneAdam(p, lr=0.1, freeze_step=2),
    ):
        param = torch.nn.Parameter(torch.ones(COUNT))
        optimizer = make([param])
        for step in range(6):
            param.grad = gradient_of(step, hvd.rank())
            param.grad[:7] = 0
            optimizer.step()
        assert torch.equal(param.detach()[:7], torch.ones(7))
        assert (param.detach()[7:] != 1).all() and param.detach().isfinite().all()


@on_ranks(1, 2)
def test_zero_one_adam_is_its_algorithm_written_out():
    ranks, beta1, beta2 = hvd.size(), 0.75, 0.9
    rates = [0.1 if step < 9 else 0.05 for step in range(24)]
    options = {"freeze_step": 6, "variance_scaler": 2, "local_scaler": 5, "local_limit": 4}
    values = steps(
        lambda p: ZeroOneAdam(p, betas=(beta1, beta2), compression="none", **options), 24, rates
    )
    # Variances: one step apart twice, then two twice. Exchanges: each step for 6 + 5, then every
    # second for 5, then every fourth.
    varied = {0, 1, 2, 4}
    met = {*range(11), 12, 14, 18, 22}
    xs, ms = start(ranks), [torch.zeros(COUNT)] * ranks
    us, v, updates, last, paid = [torch.zeros(COUNT)] * ranks, torch.zeros(COUNT), 0, xs[0], 0.0
    seen = set()
    for step, rate in enumerate(rates):
        gradients = [gradient_of(step, r) for r in range(ranks)]
        if step in varied:
            v = beta2 * v + (1 - beta2) * (sum(gradients) / ranks) ** 2
            updates += 1
        root = (v / (1 - beta2**updates)).sqrt() + 1e-8
        ms = [beta1 * m + (1 - beta1) * g for m, g in zip(ms, gradients, strict=True)]
        xs = [x - rate * m / root for x, m in zip(xs, ms, strict=True)]
        us = [u + rate * m for u, m in zip(us, ms, strict=True)]
        paid += rate
        if step in met:
            u = sum(us) / ranks
            last = last - u / root
            ms, xs, us, paid = [u / paid] * ranks, [last] * ranks, [torch.zeros(COUNT)] * ranks, 0.0
            seen.add(step)
        torch.testing.assert_close(values[step], xs[hvd.rank()], rtol=1e-3, atol=1e-4)
    assert seen == met


@on_ranks(2)
def test_all_train_with_their_own_chains_and_keep_ranks_alike():
    torch.manual_seed(11)
    target = torch.nn.Linear(64, 32)
    makers = {
        "signum": lambda p: Signum(p, lr=0.002),
        "one-bit": lambda p: OneBitAdam(p, lr=0.01, freeze_step=30),
        "zero-one": lambda p: ZeroOneAdam(p, lr=0.01, freeze_step=60, local_scaler=40),
    }
    for name, make in makers.items():
        torch.manual_seed(12)
        model = torch.nn.Linear(64, 32)
        optimizer = make(model.parameters())
        generator = torch.Generator().manual_seed(hvd.rank())
        losses = []
        for step in range(200):
            if name == "zero-one":  # whose learning rate must warm up and decay
                rate = 0.01 * min((step + 1) / 30, (200 - step) / 170)
                optimizer.param_groups[0]["lr"] = rate
            batch = torch.randn(32, 64, generator=generator)
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(batch), target(batch).detach())
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        while not getattr(optimizer, "is_synchronized", True):
            optimizer.step()
        assert losses[-1] < losses[0] / 20, (name, losses[0], losses[-1])
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        every = hvd.allgather(flat.reshape(1, -1))
        assert torch.equal(every[0], every[1]), name


@on_ranks(2)
def test_their_state_brings_back_memories_too():
    for make in (
        lambda p: OneBitAdam(p, lr=0.01, freeze_step=3),
        lambda p: ZeroOneAdam(p, lr=0.01, freeze_step=3, local_scaler=2),
    ):
        param = torch.nn.Parameter(torch.ones(COUNT))
        optimizer = make([param])
        values = []
        for step in range(12):
            if step == 6:
                saved, start_at = copy.deepcopy(optimizer.state_dict()), param.detach().clone()
            param.grad = gradient_of(step, hvd.rank())
            optimizer.step()
            values.append(param.detach().clone())
        assert saved["hora"]
        param.data.copy_(start_at)
        optimizer.load_state_dict(saved)
        for step in range(6, 12):
            param.grad = gradient_of(step, hvd.rank())
            optimizer.step()
            assert torch.equal(param.detach(), values[step]), step


@on_ranks(1)
def test_what_makes_no_sense_is_refused():
    params = [torch.nn.Parameter(torch.ones(1))]
    for make in (
        lambda: Signum(params, lr=-1),
        lambda: Signum(params, momentum=1),
        lambda: OneBitAdam(params, freeze_step=0),
        lambda: OneBitAdam(params, betas=(0.9, 1)),
        lambda: ZeroOneAdam(params, local_limit=0),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(ValueError, match="exchange"):
        hvd.DistributedOptimizer(Signum(params))
