"""Which compression chain an operation uses."""

from __future__ import annotations

import sys
from typing import Any

import torch


class Compressor:
    """A chain under the name that Horovod's scripts use.

    The engine compresses while it packs; `compress` and `decompress` are only for programs that
    call them directly.
    """

    def __init__(self, chain: str, wire: torch.dtype | None = None) -> None:
        self.chain = chain
        self._wire = wire

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.dtype | None]:
        """Casts floating-point values to the wire's type; the second result is for `decompress`."""
        if self._wire is None or not tensor.dtype.is_floating_point:
            return tensor, None
        return tensor.to(self._wire), tensor.dtype

    def decompress(self, tensor: torch.Tensor, ctx: torch.dtype | None) -> torch.Tensor:
        """Undoes `compress`."""
        return tensor if ctx is None else tensor.to(ctx)

    def __repr__(self) -> str:
        return f"Compressor({self.chain!r})"


class Compression:
    """Horovod's two choices. Everywhere a chain as text does, too: `compression="onebit"`."""

    #: Values as they are. For a DistributedOptimizer: what HORA_COMPRESSION says.
    none = Compressor("none")
    #: Half precision on the wire.
    fp16 = Compressor("fp16", torch.float16)


def chain_of(compression: Any, job_setting: str = "none") -> str:
    """The chain as the engine knows it; `job_setting` replaces Horovod's `Compression.none`.

    Takes a compressor written in Python (hora.compression), too: a chain of nothing else.
    """
    if isinstance(compression, str):
        return compression
    if compression is Compression.none:
        return job_setting
    if isinstance(compression, Compressor):
        return compression.chain
    # Who has none of its compressors need not have NumPy, which that module needs.
    in_python = sys.modules.get("hora.compression")
    kind = compression if isinstance(compression, type) else type(compression)
    if in_python is not None and issubclass(kind, in_python.Compressor):
        return in_python.chain_of(compression)
    raise TypeError(
        f"compression={compression!r}: expected Compression.none, Compression.fp16, a chain such "
        'as "onebit", or a hora.compression.Compressor; see docs/new_compressor.md'
    )
