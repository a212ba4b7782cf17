"""What each rank of a trial's job runs: `python rank.py FOLDER STEPS`.

Sums of exact integers, small and large, alone and together, for so many steps; then it leaves. What
happens to it goes to FOLDER/rank.N, a line of JSON each, with the time of the clock that all
processes of this machine share. It needs no framework, so it starts in a tenth of a second.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import sys
import time

import hora
from hora import runtime
from hora.constants import DType, Op, ReduceOp

COUNTS = (1, 40, 3000, 60_000, 400_000)
PERIOD = 1021  # of what is summed; a multiple of no chunk
VARIANTS = 5  # steps differ, so that what an earlier one left is noticed


def ramp(count: int, variant: int, factor: int) -> array.array:
    period = array.array("f", [float((i + variant) * factor) for i in range(PERIOD)])
    return (period * (count // PERIOD + 1))[:count]


class Sums:
    """Allreduces whose results are known."""

    def __init__(self) -> None:
        engine = runtime.session().engine
        me, size = engine.rank, engine.size
        self._engine = engine
        self._memory = {count: memoryview(engine.allocate(4 * count)) for count in COUNTS}
        total = size * (size + 1) // 2
        self._given = self._ramps(me + 1)
        self._expected = self._ramps(total)

    @staticmethod
    def _ramps(factor: int) -> dict[tuple[int, int], bytes]:
        return {
            (count, variant): ramp(count, variant, factor).tobytes()
            for count in COUNTS
            for variant in range(VARIANTS)
        }

    def run(self, step: int) -> str:
        """What was wrong with this step's sums; empty if nothing was."""
        chosen = COUNTS if step % 3 == 0 else COUNTS[step % 4 : step % 4 + 1]
        handles = [(count, self._submit(count, step)) for count in chosen]
        for count, handle in handles:
            self._engine.wait(handle)
            if bytes(self._memory[count]) != self._expected[count, step % VARIANTS]:
                return f"step {step}: the sum of {count} elements"
        return ""

    def _submit(self, count: int, step: int) -> int:
        memory = self._memory[count]
        memory[:] = self._given[count, step % VARIANTS]
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return self._engine.submit(
            *(Op.ALLREDUCE, at, at, DType.FLOAT32, (count,), f"sum{count}", ReduceOp.SUM),
            *(0, 0, 1.0, 1.0, "", 0, 0),
        )


def main(folder: str, steps: int) -> int:
    notes = open(f"{folder}/rank.{os.environ['HORA_RANK']}", "a", buffering=1)  # noqa: SIM115

    def note(what: str, text: object = "") -> None:
        notes.write(json.dumps([time.monotonic(), what, text]) + "\n")

    note("born", os.getpid())
    sums = None
    try:
        hora.init()
        sums = Sums()
        for step in range(steps):
            if wrong := sums.run(step):
                note("wrong", wrong)
                return 3
            if step == 0:
                note("joined")
            if step == steps - 5:
                note("almost")
            if step % 10 == 9:
                note("goes on", step)
            if step % 7 == 3:
                time.sleep(0.003)
    except (hora.HoraError, ValueError) as error:
        note("error", str(error))
        if sums is not None:
            try:
                sums.run(0)
                note("wrong", "an operation after the error ended well")
            except hora.HoraError:
                pass
        return 1
    hora.shutdown()
    note("left")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
