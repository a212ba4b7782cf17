"""torch.distributed's Gloo allreduce at the sizes of `collectives`, in the same JSON.

python benchmarks/peers/torch_gloo.py -np 2 --json report.json

With torchrun's variables in the environment it is one rank of a job that somebody else started.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def slowest(seconds: float) -> float:
    value = torch.tensor([seconds * 1e6], dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value.item()


def measure(count: int, iterations: int) -> tuple[float, float]:
    values = torch.zeros(count)
    for _ in range(5):
        dist.all_reduce(values)
    dist.barrier()
    samples = []
    begin = time.perf_counter()
    for _ in range(iterations):
        dist.all_reduce(values)
        end = time.perf_counter()
        samples.append(end - begin)
        begin = end
    return slowest(statistics.median(samples)), slowest(statistics.quantiles(samples, n=10)[0])


def run_local_rank(rank: int, arguments: argparse.Namespace, rendezvous: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=arguments.np
    )
    run_rank(arguments)


def run_rank(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rank = dist.get_rank()
    rows = []
    size = float(arguments.least)
    while size <= arguments.most:
        iterations = int(min(max((1 << 28) / size, 20), arguments.iterations))
        median, p10 = measure(int(size) // 4, iterations)
        rows.append({"size": int(size), "time_us": median, "p10_us": p10})
        if rank == 0:
            print(f"{int(size):12d} {median:11.2f} {p10:11.2f}", flush=True)
        size *= arguments.factor
    if rank == 0 and arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(
                {"ranks": dist.get_world_size(), "torch": torch.__version__, "rows": rows}, file
            )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-np", type=int, default=2)
    parser.add_argument("--least", type=int, default=4)
    parser.add_argument("--most", type=int, default=64 << 20)
    parser.add_argument("--factor", type=float, default=4)
    parser.add_argument("--iterations", type=int, default=500, help="at most, for small sizes")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group("gloo")
        return run_rank(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = os.path.join(folder, "rendezvous")
        mp.spawn(run_local_rank, (arguments, rendezvous), nprocs=arguments.np)


if __name__ == "__main__":
    main()
