"""Hora's engine under torch's DistributedDataParallel: a communication hook.

    state = hvd.DDPHookState("powersgd", model.named_parameters())
    ddp = DistributedDataParallel(model)
    ddp.register_comm_hook(state, hvd.ddp_comm_hook)

DDP's own process group still broadcasts parameters and buffers; gradients travel through Hora, each
with its own shape, so that a chain sees the matrices and not DDP's flat buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from hora import _native, runtime
from hora.constants import Op, ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.compression import Compression, Compressor, chain_of
from hora.torch.tensors import CODES, check, shape_in_memory

if TYPE_CHECKING:
    from torch.distributed import GradBucket


class DDPHookState:
    """What `ddp_comm_hook` needs to know; one for each DistributedDataParallel.

    `compression` as for a DistributedOptimizer. Names make timelines and saved memories readable;
    without them parameters are numbered in the order in which DDP first sends them, which is the
    same on all ranks. `process_set` must be the ranks of DDP's own process group. Made after
    `hora.init()`, on all ranks in the same order.

    Threads: those of one DistributedDataParallel, one at a time.
    """

    def __init__(
        self,
        compression: Compressor | str = Compression.none,
        named_parameters: Iterable[tuple[str, torch.Tensor]] | None = None,
        process_set: ProcessSet = global_process_set,
    ) -> None:
        self._compression = compression
        self._process_set = process_set
        self._names = {id(param): name for name, param in named_parameters or []}
        self._session: runtime.Session | None = None
        self._requests: dict[int, _native.PreparedRequest] = {}
        self._in_flight: list[int] = []
        self._lent: list[torch.futures.Future[torch.Tensor]] = []
        self._step = 0
        self._enter_session()

    def _enter_session(self) -> _native.Engine:
        if (session := runtime.session()) is not self._session:
            self._session = session
            self._domain = session.next_domain(self._process_set.required_id())
            self._chain = chain_of(self._compression, session.engine.compression)
            self._requests.clear()
            self._in_flight.clear()
            self._lent.clear()
        return session.engine

    def _request(
        self, engine: _native.Engine, param: torch.Tensor, grad: torch.Tensor
    ) -> _native.PreparedRequest:
        if (known := self._requests.get(id(param))) is not None:
            return known
        check(grad)
        name = self._names.setdefault(id(param), f"noname.{len(self._names)}")
        made = self._requests[id(param)] = _native.PreparedRequest(
            engine,
            Op.ALLREDUCE,
            CODES[grad.dtype],
            shape_in_memory(grad.shape, grad.stride()),
            f"ddp.{name}@{self._domain}",
            ReduceOp.AVERAGE,
            self._process_set.required_id(),
            1.0,
            1.0,
            "none" if grad.dtype == torch.float64 else self._chain,
            0,
            self._domain,
        )
        return made

    def _send(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        engine = self._enter_session()
        for param, grad in zip(bucket.parameters(), bucket.gradients(), strict=True):
            if grad.numel():
                request = self._request(engine, param, grad)
                self._in_flight.append(request.submit(grad.data_ptr(), 0.0, self._step))
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.buffer = bucket.buffer()  # type: ignore[attr-defined]
        self._lent.append(future)
        if bucket.is_last():
            self._finish(engine)
        return future

    def _finish(self, engine: _native.Engine) -> None:
        # DDP sends buckets in order and waits for all of them as soon as the last one is sent, so
        # waiting here costs nothing and needs no thread.
        engine.flush(self._domain)
        failures = engine.wait_all(self._in_flight)
        lent, self._lent = self._lent, []
        self._in_flight = []
        self._step += 1
        if failures:
            raise failures[0][1]
        for future in lent:
            future.set_result(future.buffer)  # type: ignore[attr-defined]


# Without annotations: torch compares them, and they are text in this file.
def ddp_comm_hook(state, bucket):  # type: ignore[no-untyped-def]
    """For `DistributedDataParallel.register_comm_hook`: gradients become the mean of all ranks.

    They are reduced where they lie, in DDP's buckets. Errors: those of an allreduce, raised by
    `backward()`; the buckets are then in part reduced and in part not.
    """
    return state._send(bucket)
