"""What a timeline costs: steps of 100 tensors of 10 KB, with a timeline on and off in turns.

horarun -np 2 python benchmarks/timeline.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
import time

from engine import many

import hora.torch as hvd

TENSORS, ELEMENTS = 100, 2560


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100, help="steps of each turn")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    hvd.init()
    step = many("tensor", TENSORS, ELEMENTS)

    def turn() -> float:
        samples = []
        for _ in range(arguments.steps):
            begin = time.perf_counter()
            step()
            samples.append(time.perf_counter() - begin)
        return statistics.median(samples)

    turn()
    off, on = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(hvd.broadcast_object(folder)) / "timeline.json"
        for _ in range(arguments.turns):
            hvd.barrier()
            off.append(turn())
            hvd.start_timeline(path)
            hvd.barrier()
            on.append(turn())
            hvd.stop_timeline()
        hvd.barrier()
        dropped = hvd.metrics()["timeline_dropped"]
        hvd.barrier()
    row = {
        "what": f"{TENSORS} x {4 * ELEMENTS // 1024} KiB a step",
        "ranks": hvd.size(),
        "off_us": 1e6 * statistics.median(off),
        "on_us": 1e6 * statistics.median(on),
        "cost_percent": 100 * (statistics.median(a / b for a, b in zip(on, off, strict=True)) - 1),
        "moments_lost": dropped,
    }
    if hvd.rank() == 0:
        print(
            f"{row['what']}, {row['ranks']} ranks: {row['off_us']:.1f} us without, "
            f"{row['on_us']:.1f} us with a timeline, {row['cost_percent']:+.1f} %, "
            f"{dropped} moments lost"
        )
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(row, indent=2) + "\n")
    hvd.shutdown()


if __name__ == "__main__":
    main()
