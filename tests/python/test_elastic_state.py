"""Goal: a state comes back as it was committed, is rank 0's on all ranks after sync(), and samplers
partition what is left. Method: the classes alone, on ranks that nothing happens to; test_elastic.py
has what happens to them in elastic jobs.
"""

import torch
from support import on_ranks

import hora.torch as hvd


def _training():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return model, optimizer, schedule


def _step(model, optimizer, schedule):
    optimizer.zero_grad()
    model(torch.arange(6.0).reshape(3, 2)).square().sum().backward()
    optimizer.step()
    schedule.step()


def _picture(model, optimizer, schedule):
    """All that training depends on, to be compared exactly."""
    tensors = [tensor.tolist() for tensor in model.state_dict().values()]
    momenta = [state["momentum_buffer"].tolist() for state in optimizer.state.values()]
    return tensors, momenta, optimizer.param_groups[0]["lr"], schedule.last_epoch


@on_ranks(1)
def test_restore_brings_back_what_was_committed_and_no_later_change():
    training = _training()
    model, optimizer, schedule = training
    state = hvd.elastic.TorchState(
        model=model, optimizer=optimizer, schedule=schedule, batch=0, log=[]
    )
    _step(*training)
    state.batch, state.log = 1, ["one"]
    state.commit()
    committed = _picture(*training)
    for _ in range(2):
        _step(*training)
        state.batch += 1
        state.log.append("more")
        assert _picture(*training) != committed
        state.restore()
        assert _picture(*training) == committed
        assert (state.batch, state.log) == (1, ["one"])
        assert all(param.grad is None for param in model.parameters())
    assert state.model is model and state.optimizer is optimizer


@on_ranks(1)
def test_another_model_is_kept_instead_of_the_first_one():
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(2, 2)
    state = hvd.elastic.TorchState(model=first)
    state.model = second
    weight = second.weight.detach().clone()
    with torch.no_grad():
        second.weight.zero_()
    state.restore()
    assert torch.equal(second.weight, weight) and state.model is second


@on_ranks(2)
def test_sync_makes_all_state_rank_zeros_and_keeps_it():
    torch.manual_seed(hvd.rank())
    training = _training()
    model, optimizer, schedule = training
    state = hvd.elastic.TorchState(
        model=model, optimizer=optimizer, schedule=schedule, batch=10 * hvd.rank(), name=None
    )
    for _ in range(1 + hvd.rank()):
        _step(*training)
    if hvd.rank() == 0:
        state.name = "zero"
    state.sync()
    pictures = hvd.allgather_object(_picture(*training))
    assert pictures[0] == pictures[1]
    assert (state.batch, state.name) == (0, "zero")
    _step(*training)
    state.restore()
    assert _picture(*training) == pictures[0]


@on_ranks(2)
def test_an_object_state_is_shared_and_restored_too():
    state = hvd.elastic.ObjectState(hvd.broadcast_object, hvd.rank, values=[hvd.rank()], count=1)
    state.sync()
    assert state.values == [0]
    state.values.append(5)
    state.restore()
    assert state.values == [0]
    state.check_host_updates()  # nobody wants a change where the job is not elastic


@on_ranks(2)
def test_a_sampler_goes_on_with_what_no_rank_has_visited():
    sampler = hvd.elastic.ElasticSampler(range(22), shuffle=False)
    state = hvd.elastic.TorchState(sampler=sampler)
    assert list(sampler) == list(range(hvd.rank(), 22, 2)) and len(sampler) == 11
    sampler.record_batch(0, 4)
    sampler.record_batch(1, 4)
    state.commit()
    sampler.record_batch(2, 2)
    state.restore()
    state.on_reset()
    state.sync()
    assert sampler.processed_indices == set(range(16))
    assert list(sampler) == list(range(16 + hvd.rank(), 22, 2))
    assert sampler.get_indices(1, 2) == [20 + hvd.rank()]
    sampler.set_epoch(1)
    assert len(sampler) == 11


@on_ranks(2)
def test_samples_recorded_by_one_rank_alone_are_known_to_all_after_sync():
    sampler = hvd.elastic.ElasticSampler(range(6), shuffle=False)
    state = hvd.elastic.TorchState(sampler=sampler)
    sampler.record_indices([hvd.rank()])
    state.commit()
    state.sync()
    assert sampler.processed_indices == {0, 1}
    assert list(sampler) == [2 + hvd.rank(), 4 + hvd.rank()]


@on_ranks(2)
def test_shuffled_parts_are_the_same_permutation_and_differ_by_epoch():
    sampler = hvd.elastic.ElasticSampler(range(9), shuffle=True, seed=4)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        parts = hvd.allgather_object(list(sampler))
        assert [len(part) for part in parts] == [5, 5]
        assert set(parts[0] + parts[1]) == set(range(9))
        orders.append(parts)
    assert orders[0] != orders[1]


@on_ranks(2)
def test_reset_meets_again_and_the_function_goes_on_where_it_was():
    calls = []
    state = hvd.elastic.TorchState(batch=0, extra=hvd.rank())

    def adapt():
        calls.append(hvd.size())
        state.extra = 7 + hvd.rank()

    state.register_reset_callbacks([adapt])

    @hvd.elastic.run
    def train(state, more):
        state.batch += 1
        if state.batch < 3:
            raise hvd.elastic.HostsUpdatedInterrupt(skip_sync=state.batch == 2)
        return state.batch, state.extra, more

    assert train(state, more="words") == (3, 7 + hvd.rank(), "words")
    assert calls == [2, 2]


@on_ranks(2)
def test_a_lost_rank_is_an_error_where_the_job_is_not_elastic():
    state = hvd.elastic.TorchState(batch=0)

    @hvd.elastic.run
    def train(state):
        raise hvd.elastic.HorovodInternalError("lost")

    try:
        train(state)
    except hvd.elastic.HorovodInternalError as error:
        assert str(error) == "lost"
    else:
        raise AssertionError("no error")
