"""What the engine costs from Python: small operations, and many of them.

horarun -np 2 python benchmarks/engine.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

import hora.torch as hvd


def measure(work: Callable[[], object], rounds: int) -> dict[str, float]:
    for _ in range(5):
        work()
    samples = []
    begin = time.perf_counter()
    for _ in range(rounds):
        work()
        end = time.perf_counter()
        samples.append(end - begin)
        begin = end
    return {
        "median_us": 1e6 * statistics.median(samples),
        "p10_us": 1e6 * statistics.quantiles(samples, n=10)[0],
    }


def many(name: str, count: int, elements: int) -> Callable[[], None]:
    tensors = [torch.zeros(elements) for _ in range(count)]
    names = [f"{name}.{i}" for i in range(count)]

    def work() -> None:
        handles = [
            hvd.allreduce_async_(tensor, name=name)
            for tensor, name in zip(tensors, names, strict=True)
        ]
        for handle in handles:
            hvd.synchronize(handle)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    hvd.init()
    one = torch.zeros(1)
    group = [torch.zeros(1) for _ in range(1000)]
    cases: dict[str, tuple[Callable[[], object], int]] = {
        "4 bytes, synchronous": (
            lambda: hvd.synchronize(hvd.allreduce_async_(one, name="single")),
            40 * arguments.rounds,
        ),
        "200 x 10 KB, asynchronous": (many("medium", 200, 2500), arguments.rounds),
        "1000 x 4 bytes, asynchronous": (many("small", 1000, 1), arguments.rounds),
        "1000 x 4 bytes, one group": (
            lambda: hvd.grouped_allreduce_(group, name="group"),
            arguments.rounds,
        ),
    }
    rows = []
    for what, (work, rounds) in cases.items():
        rows.append({"what": what, **measure(work, rounds)})
        if hvd.rank() == 0:
            print(
                f"{what:34} {rows[-1]['median_us']:12.1f} {rows[-1]['p10_us']:12.1f} us", flush=True
            )
    if hvd.rank() == 0 and arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"ranks": hvd.size(), "rows": rows}, file, indent=2)
    hvd.shutdown()


if __name__ == "__main__":
    main()
