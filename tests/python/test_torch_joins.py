"""Goal: ranks that ran out of data, process sets and objects behave as Horovod documents.

Method: real ranks whose numbers of steps differ; sets that overlap; what is an error for some ranks
is one that leaves the job usable for all.
"""

import pytest
import torch
from support import needs_horarun, on_ranks, run_program

import hora.torch as hvd


@on_ranks(2, 3)
def test_join_tells_who_was_last_and_operations_in_flight_end():
    last = hvd.size() - 1
    handles = [
        hvd.allreduce_async_(torch.ones(3), name=f"turn.{turn}", op=hvd.Sum)
        for turn in range(2 * hvd.rank() + 1)
    ]
    for turn, handle in enumerate(handles):
        here = sum(turn < 2 * r + 1 for r in range(hvd.size()))
        assert hvd.synchronize(handle).tolist() == [float(here)] * 3
    if hvd.rank() == last:
        # Every other rank joins without waiting for anything of this one.
        mean = hvd.allreduce(torch.full((2,), 6.0), name="alone")
        assert mean.tolist() == [6 / hvd.size()] * 2
    assert hvd.join() == last


@on_ranks(2)
def test_what_zeros_would_distort_is_refused_while_a_rank_has_joined():
    if hvd.rank() == 0:
        ones = torch.ones(4)
        calls = {
            "allgather": lambda: hvd.allgather(ones, name="gather"),
            "broadcast": lambda: hvd.broadcast(ones, 0, name="cast"),
            "alltoall": lambda: hvd.alltoall(ones, name="all"),
            "reducescatter": lambda: hvd.reducescatter(ones, name="scatter"),
            "allreduce of max": lambda: hvd.allreduce(ones, name="max", op=hvd.Max),
        }
        for what, call in calls.items():
            with pytest.raises(hvd.HorovodInternalError, match=f"(?s)joined.*{what}"):
                call()
        assert hvd.allreduce(ones, name="sum", op=hvd.Sum).tolist() == [1.0] * 4
    hvd.join()
    assert hvd.allgather(torch.tensor([hvd.rank()]), name="again").tolist() == [0, 1]


@on_ranks(3)
def test_a_rank_that_has_joined_keeps_up_with_pieces_and_changes_of_chains():
    count = 3 << 20  # more than a bucket: pieces on two lanes
    for step in range(12 if hvd.rank() < 2 else 0):
        chain = ["onebit", "ef+quant:bits=8", "bf16"][step // 4]
        mine = torch.full((count,), float(1 + hvd.rank() + step))
        total = hvd.allreduce(mine, name="w", op=hvd.Sum, compression=chain)
        # What is equal everywhere is as good as exact in these.
        assert torch.allclose(total, torch.tensor(3.0 + 2 * step), rtol=0.01), (step, chain)
        other = hvd.allreduce(total, name="copy", op=hvd.Sum, compression="none") / 2
        assert torch.equal(total, other), (step, chain)
    hvd.join()


@on_ranks(2)
def test_poll_says_no_while_an_operation_goes_on():
    everybody_here = hvd.allreduce_async(torch.ones(1), name="here")
    if hvd.rank() == 1:
        hvd.synchronize(everybody_here)
    alone = hvd.allreduce_async(torch.ones(2), name="late") if hvd.rank() == 0 else None
    if alone is not None:
        assert not hvd.poll(alone)  # rank 1 waits for the barrier first
    hvd.barrier()
    if alone is None:
        alone = hvd.allreduce_async(torch.ones(2), name="late")
    hvd.synchronize(alone)
    assert hvd.poll(alone)


@on_ranks(4)
def test_sets_may_overlap_and_only_members_use_them():
    rank = hvd.rank()
    sets = [hvd.add_process_set(ranks) for ranks in ([0, 1, 2], [1, 2, 3], [3])]
    own = [each for each in sets if each.included()]
    for turn in range(5):
        started = []
        # Nobody waits before all have started, so ranks may begin with different sets.
        for each in own if turn % 2 == rank % 2 else reversed(own):
            mine, rows = torch.tensor([1.0 * rank]), torch.full((rank,), rank)
            total = hvd.allreduce_async(mine, name=f"t{turn}", op=hvd.Sum, process_set=each)
            gathered = hvd.allgather_async(rows, name=f"g{turn}", process_set=each)
            started.append((each, total, gathered))
        for each, total, gathered in started:
            assert hvd.synchronize(gathered).tolist() == [r for r in each.ranks for _ in range(r)]
            assert hvd.synchronize(total).item() == sum(each.ranks)
    for each in own:
        assert hvd.allgather_object((rank, "x"), process_set=each) == [(r, "x") for r in each.ranks]
        root = each.ranks[-1]
        obj = hvd.broadcast_object({rank} if rank == root else None, root, process_set=each)
        assert obj == {root}
    for each in sets:
        if not each.included():
            for call in (hvd.allreduce, hvd.allgather, hvd.alltoall, hvd.reducescatter):
                with pytest.raises(ValueError, match="member"):
                    call(torch.ones(3), process_set=each)
            with pytest.raises(ValueError, match="member"):
                hvd.broadcast(torch.ones(3), each.ranks[0], process_set=each)
        elif each.size() > 1:
            with pytest.raises(ValueError, match="root rank"):
                hvd.broadcast(torch.ones(3), 0 if 0 not in each.ranks else 3, process_set=each)
    hvd.barrier()
    for each in sets:
        assert hvd.remove_process_set(each)


@on_ranks(2)
def test_sets_that_make_no_sense_are_refused():
    for ranks in ([0, 0], [5], [-1], []):
        with pytest.raises(ValueError):
            hvd.add_process_set(ranks)
    with pytest.raises(hvd.Mismatch):
        hvd.add_process_set([hvd.rank()])
    assert not hvd.remove_process_set(hvd.global_process_set)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == 2.0


@needs_horarun
def test_sets_given_to_init_are_there_after_each_init():
    job = run_program(
        2,
        "import torch, hora.torch as hvd\n"
        "sets = [hvd.ProcessSet([0]), hvd.ProcessSet([1, 0])]\n"
        "for turn in range(2):\n"
        "    hvd.init(process_sets=sets)\n"
        "    both = hvd.allreduce(torch.ones(1), op=hvd.Sum, process_set=sets[1]).item()\n"
        "    print(turn, [s.process_set_id is not None for s in sets], sets[1].ranks, both)\n"
        "    hvd.shutdown()\n"
        "    print(turn, [s.process_set_id for s in sets])\n",
        check=True,
    )
    for turn in range(2):
        for rank in range(2):
            assert f"[{rank}] {turn} [True, True] [0, 1] 2.0" in job.stdout, job.stdout
            assert f"[{rank}] {turn} [None, None]" in job.stdout, job.stdout
