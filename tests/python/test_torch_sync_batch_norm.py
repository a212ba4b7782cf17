"""Goal: SyncBatchNorm over N ranks is BatchNorm over their batches put together.

Method: real ranks; the same data on one process, in float64, where sums that are joined differently
agree to the last bits; batches of different sizes, and one that is empty.
"""

import pytest
import torch
from support import on_ranks

import hora.torch as hvd

CASES = [((6,), torch.nn.BatchNorm1d), ((5, 3), torch.nn.BatchNorm1d)]
CASES += [((4, 3, 2), torch.nn.BatchNorm2d), ((2, 2, 1, 3), torch.nn.BatchNorm3d)]


def parts_of(tail, dtype=torch.float64):
    """Every rank's batch, of other sizes; rank 1's is the smallest."""
    generator = torch.Generator().manual_seed(3)
    sizes = [3, 1, 4, 2][: hvd.size()]
    return [torch.randn(n, *tail, generator=generator).to(dtype) * 3 + 2 for n in sizes]


def weights_like(batch):
    return torch.arange(batch.numel(), dtype=batch.dtype).reshape(batch.shape) % 7 - 2


def check_against_one_process(parts, plain, synced, tolerance):
    rank = hvd.rank()
    whole = torch.cat(parts).requires_grad_()
    mine = parts[rank].clone().requires_grad_()
    expected = plain(whole)
    actual = synced(mine)
    rows = [len(part) for part in parts]
    torch.testing.assert_close(actual, expected.split(rows)[rank], **tolerance)
    weights = weights_like(whole)
    (expected * weights).sum().backward()
    (actual * weights.split(rows)[rank]).sum().backward()
    torch.testing.assert_close(mine.grad, whole.grad.split(rows)[rank], **tolerance)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        if getattr(plain, name) is not None:
            torch.testing.assert_close(getattr(synced, name), getattr(plain, name), **tolerance)
    for ours, theirs in zip(synced.parameters(), plain.parameters()):
        # Each rank has its own part of the sum.
        total = hvd.allreduce(ours.grad, op=hvd.Sum)
        torch.testing.assert_close(total, theirs.grad, **tolerance)


def filled(plain):
    with torch.no_grad():
        for i, p in enumerate(plain.parameters()):
            p.copy_(torch.arange(p.numel()) * 0.5 + i + 1)
    return plain


@on_ranks(2, 4)
def test_forward_and_backward_equal_one_process_with_the_whole_batch():
    close = {"rtol": 1e-12, "atol": 1e-12}
    for tail, kind in CASES:
        for options in ({}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}):
            plain = filled(kind(tail[0], **options).double())
            synced = hvd.SyncBatchNorm(tail[0], **options).double()
            synced.load_state_dict(plain.state_dict())
            for _ in range(2):
                plain.zero_grad(), synced.zero_grad()
                check_against_one_process(parts_of(tail), plain, synced, close)
            plain.eval(), synced.eval()
            batch = parts_of(tail)[0]
            torch.testing.assert_close(synced(batch), plain(batch), **close)
    floats = filled(torch.nn.BatchNorm2d(4))
    check_against_one_process(
        parts_of((4, 3, 3), torch.float32),
        floats,
        hvd.convert_sync_batchnorm(filled(torch.nn.BatchNorm2d(4))),
        {"rtol": 1e-4, "atol": 1e-4},
    )


@on_ranks(2)
def test_all_ranks_normalize_by_the_same_bits():
    synced = hvd.SyncBatchNorm(3)
    torch.manual_seed(hvd.rank())
    synced(torch.randn(5 + hvd.rank(), 3, 7))
    every = hvd.allgather_object((synced.running_mean.tolist(), synced.running_var.tolist()))
    assert every[0] == every[1]


@on_ranks(2)
def test_a_rank_without_samples_takes_part():
    plain = filled(torch.nn.BatchNorm1d(2).double())
    synced = hvd.SyncBatchNorm(2).double()
    synced.load_state_dict(plain.state_dict())
    parts = parts_of((2, 5))[:1] + [torch.empty(0, 2, 5, dtype=torch.float64)]
    check_against_one_process(parts, plain, synced, {"rtol": 1e-12, "atol": 1e-12})


@on_ranks(2)
def test_conversion_keeps_parameters_and_names():
    model = torch.nn.Sequential(
        torch.nn.Conv1d(2, 3, 1),
        torch.nn.BatchNorm1d(3, eps=0.5, momentum=0.25),
        torch.nn.Sequential(torch.nn.BatchNorm2d(4, affine=False), torch.nn.ReLU()),
    ).eval()
    before = dict(model.named_parameters()), list(model.state_dict())
    converted = hvd.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert all(p is before[0][name] for name, p in converted.named_parameters())
    assert list(converted.state_dict()) == before[1]
    first = converted[1]
    assert isinstance(first, hvd.SyncBatchNorm) and isinstance(converted[2][0], hvd.SyncBatchNorm)
    assert (first.eps, first.momentum, first.affine, first.training) == (0.5, 0.25, True, False)
    assert not converted[2][0].affine
    assert hvd.convert_sync_batchnorm(first) is first
    with pytest.raises(ValueError, match="lazy"):
        hvd.convert_sync_batchnorm(torch.nn.LazyBatchNorm1d())


@on_ranks(2)
def test_wrong_batches_are_told_on_all_ranks():
    synced = hvd.SyncBatchNorm(3)
    with pytest.raises(ValueError, match="2 dimensions"):
        synced(torch.ones(3))
    with pytest.raises(ValueError, match="expected 3 channels, got 4"):
        synced(torch.ones(2, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        synced(torch.ones(1 - hvd.rank(), 3))
    assert synced(torch.ones(1, 3)).shape == (1, 3)
