"""Collectives on arrays of the standard library: the mistakes need no framework, and start fast."""

from __future__ import annotations

import array
import math

from hora.constants import DType, Op, ReduceOp
from hora.runtime import session

DTYPES = {"f": DType.FLOAT32, "d": DType.FLOAT64}


def submit(
    name,
    shape=(4,),
    op=Op.ALLREDUCE,
    reduce=ReduceOp.AVERAGE,
    root=0,
    process_set=0,
    kind="f",
    chain="none",
):
    """Submits ones of this shape, in place; gives the handle."""
    values = array.array(kind, [1.0] * math.prod(shape))
    address, _ = values.buffer_info()
    engine = session().engine
    output = address if op in (Op.ALLREDUCE, Op.BROADCAST) else 0
    terms = (name, reduce, process_set, root, 1.0, 1.0, chain, 0, 0)
    handle = engine.submit(op, address, output, DTYPES[kind], tuple(shape), *terms)
    session().borrowed[handle] = values
    return handle


def wait(handle):
    """Waits for it; errors are the engine's."""
    session().engine.wait(handle)


def run(name, *arguments, **options):
    """`submit` and `wait`."""
    wait(submit(name, *arguments, **options))
