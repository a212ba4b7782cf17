"""Numbers that the engine understands. They are on the wire and in the C ABI."""

from __future__ import annotations

import enum


class Op(enum.IntEnum):
    """What to do."""

    ALLREDUCE = 0
    REDUCE_SCATTER = 1
    ALLGATHER = 2
    ALLTOALL = 3
    BROADCAST = 4
    BARRIER = 5
    ADD_SET = 6
    REMOVE_SET = 7
    JOIN = 8


class ReduceOp(enum.IntEnum):
    """How to combine values."""

    SUM = 0
    AVERAGE = 1
    MIN = 2
    MAX = 3
    PRODUCT = 4
    ADASUM = 5


class DType(enum.IntEnum):
    """Element types."""

    UINT8 = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    FLOAT16 = 5
    BFLOAT16 = 6
    FLOAT32 = 7
    FLOAT64 = 8
    BOOL = 9
