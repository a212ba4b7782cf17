"""Goal: loading ahead gives the batches that loading in turn gives, and leaves no thread behind.

Method: loaders in this process that count what they were asked for; events instead of time.
"""

import threading

import pytest

from hora.data import AsyncDataLoaderMixin, BaseDataLoader


class Squares(BaseDataLoader):
    def __init__(self, count, fails_at=None):
        self.count, self.fails_at = count, fails_at
        self.loaded = threading.Semaphore(0)

    def __len__(self):
        return self.count

    def _iterate(self):
        for i in range(self.count):
            if i == self.fails_at:
                raise OSError(f"no batch {i}")
            self.loaded.release()
            yield i * i

    def _process_batch(self, batch):
        return batch, threading.current_thread() is threading.main_thread()


class AsyncSquares(AsyncDataLoaderMixin, Squares):
    pass


def loaders():
    return [thread for thread in threading.enumerate() if thread.name == "hora-loader"]


@pytest.mark.parametrize("ahead", [0, 1, 3, 64])
def test_batches_come_in_order_in_every_epoch(ahead):
    loader = AsyncSquares(ahead, count=10)
    for _ in range(3):
        assert list(loader) == [(i * i, True) for i in range(10)]
    assert len(loader) == 10
    assert not loaders()


def test_so_many_batches_are_loaded_ahead_and_no_more():
    loader = AsyncSquares(async_loader_queue_size=3, count=100)
    batches = iter(loader)
    assert next(batches)[0] == 0
    for _ in range(1 + 3 + 1):  # taken, waiting, and the one that finds no room
        assert loader.loaded.acquire(timeout=30)
    assert not loader.loaded.acquire(blocking=False)
    batches.close()
    assert not loaders()


def test_what_loading_raises_comes_after_the_batches_before_it():
    got = []
    with pytest.raises(OSError, match="no batch 4"):
        for batch, _ in AsyncSquares(64, count=10, fails_at=4):
            got.append(batch)
    assert got == [0, 1, 4, 9]
    assert not loaders()


def test_ending_early_ends_the_thread():
    loader = AsyncSquares(2, count=1000)
    for batch, _ in loader:
        if batch == 4:
            break
    del batch
    loader.close_async_loader()
    assert not loaders()
    going_on = iter(loader)
    next(going_on)
    loader.close_async_loader()
    assert len(list(going_on)) <= 1
    assert not loaders()


def test_what_a_loader_lacks_is_named():
    class Nothing(AsyncDataLoaderMixin, BaseDataLoader):
        pass

    with pytest.raises(NotImplementedError, match="Nothing has no _iterate"):
        next(iter(Nothing()))
    with pytest.raises(NotImplementedError, match="how many"):
        len(Nothing())
    with pytest.raises(ValueError, match="async_loader_queue_size"):
        Nothing(-1)
