"""A torch tensor's allreduce from Python, in the same JSON as `collectives`: Hora or Horovod.

horarun -np 2 python benchmarks/peers/framework_allreduce.py hora --json report.json
mpirun -np 2 python benchmarks/peers/framework_allreduce.py horovod --json report.json

The script is the same for both: they have the same functions.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from typing import Any

import torch


def slowest(hvd: Any, seconds: float) -> float:
    every = hvd.allgather(torch.tensor([seconds * 1e6], dtype=torch.float64), name="slowest")
    return every.max().item()


def samples_of(work: Any, iterations: int) -> list[float]:
    for _ in range(5):
        work()
    samples = []
    begin = time.perf_counter()
    for _ in range(iterations):
        work()
        end = time.perf_counter()
        samples.append(end - begin)
        begin = end
    return samples


def row(hvd: Any, size: int, samples: list[float]) -> dict[str, float]:
    median, p10 = statistics.median(samples), statistics.quantiles(samples, n=10)[0]
    result = {"size": size, "time_us": slowest(hvd, median), "p10_us": slowest(hvd, p10)}
    if hvd.rank() == 0:
        print(f"{size:12d} {result['time_us']:11.2f} {result['p10_us']:11.2f}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=("hora", "horovod"))
    parser.add_argument("--least", type=int, default=4)
    parser.add_argument("--most", type=int, default=64 << 20)
    parser.add_argument("--factor", type=float, default=16)
    parser.add_argument("--iterations", type=int, default=300, help="at most, for small sizes")
    parser.add_argument("--many", type=int, default=0, help="so many of 10 KB at once, instead")
    parser.add_argument("--json")
    options = parser.parse_args()
    hvd = importlib.import_module(f"{options.library}.torch")
    torch.set_num_threads(1)
    hvd.init()
    rows = []
    size = float(options.least)
    while size <= options.most and not options.many:
        values = torch.zeros(int(size) // 4)
        name = f"size{int(size)}"

        def one(values: torch.Tensor = values, name: str = name) -> None:
            hvd.allreduce_(values, name=name, op=hvd.Sum)

        iterations = int(min(max((1 << 28) / size, 20), options.iterations))
        rows.append(row(hvd, int(size), samples_of(one, iterations)))
        size *= options.factor
    if options.many:
        tensors = [torch.zeros(2500) for _ in range(options.many)]

        def all_at_once() -> None:
            handles = [
                hvd.allreduce_async_(each, name=f"many{i}", op=hvd.Sum)
                for i, each in enumerate(tensors)
            ]
            for handle in handles:
                hvd.synchronize(handle)

        rows.append(row(hvd, options.many * 10_000, samples_of(all_at_once, 100)))
    if hvd.rank() == 0 and options.json:
        with open(options.json, "w") as file:
            json.dump({"ranks": hvd.size(), "rows": rows}, file)
    hvd.shutdown()


if __name__ == "__main__":
    main()
