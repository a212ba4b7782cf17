"""The base of loaders written by hand, and a mix-in that loads ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any


class BaseDataLoader:
    """A loader: a subclass says how long it is, and yields batches in `_iterate`."""

    def __len__(self) -> int:
        """How many batches there are."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many batches it has")

    def _iterate(self) -> Iterator[Any]:
        """Yields the batches of one epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no _iterate()")

    def _process_batch(self, batch: Any) -> Any:
        """What becomes of a batch before the program gets it, in the program's thread."""
        return batch

    def __iter__(self) -> Iterator[Any]:
        for batch in self._iterate():
            yield self._process_batch(batch)


class _Ahead:
    """A thread that iterates, and at most `limit` items that nobody has taken yet."""

    def __init__(self, source: Iterable[Any], limit: int) -> None:
        self._source = source
        self._limit = limit
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()  # guarded by _changed, as are the next three
        self._is_over = False
        self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hora-loader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        error = None
        try:
            for item in self._source:
                with self._changed:
                    while len(self._items) >= self._limit and not self._is_closed:
                        self._changed.wait()
                    if self._is_closed:
                        break
                    self._items.append(item)
                    self._changed.notify_all()
        except BaseException as raised:  # noqa: B036 (it is raised again, where batches are taken)
            error = raised
        with self._changed:
            self._is_over, self._error = True, error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                while not self._items and not self._is_over:
                    self._changed.wait()
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Ends the thread once it has the batch that it is at."""
        with self._changed:
            self._is_closed = self._is_over = True
            self._items.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()


class AsyncDataLoaderMixin:
    """Loads up to `async_loader_queue_size` batches ahead, in a thread; 0: when they are asked for.

    Put it before the loader: `class AsyncLoader(AsyncDataLoaderMixin, MyLoader)`. What `_iterate`
    raises is raised where batches are taken. Ending a loop early ends the thread, too.
    """

    def __init__(self, async_loader_queue_size: int = 64, *args: Any, **kwargs: Any) -> None:
        if async_loader_queue_size < 0:
            raise ValueError(f"async_loader_queue_size={async_loader_queue_size}: must not be < 0")
        self.async_loader_queue_size = async_loader_queue_size
        self._ahead: list[_Ahead] = []
        super().__init__(*args, **kwargs)

    def close_async_loader(self) -> None:
        """Ends the threads of loops that are still going on; those loops end."""
        while self._ahead:
            self._ahead.pop().close()

    def __iter__(self) -> Iterator[Any]:
        if self.async_loader_queue_size == 0:
            yield from super().__iter__()  # type: ignore[misc]
            return
        ahead = _Ahead(self._iterate(), self.async_loader_queue_size)  # type: ignore[attr-defined]
        self._ahead.append(ahead)
        try:
            for batch in ahead:
                yield self._process_batch(batch)  # type: ignore[attr-defined]
        finally:
            ahead.close()
            if ahead in self._ahead:
                self._ahead.remove(ahead)
