"""A training step of Hora, DDP and FSDP2 beside processes that do not communicate.

    python benchmarks/training.py                       # everything, 2 ranks
    python benchmarks/training.py --models mlp --types float32 --rounds 5

Trainers take turns for a few rounds, each turn a job of its own under horarun, so that noise falls
on all alike. A step is zero_grad, forward, backward and the optimizer's step; its time is the
slowest rank's. Each number is the median of the rounds' medians (and the least of their p10). After
a ratio of times comes that of processor time, which other programs disturb less.

Two kinds of memory: `kept` keeps gradients and freed memory (zero_grad(set_to_none=False), and
malloc neither maps nor trims), `fresh` is what PyTorch and glibc do by default: large gradients are
mapped anew at each step. Who is not installed is left out and named. Writes
benchmarks/results/<date>-training-<ranks>.json and .md after each round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from contestants import Row
from run_all import machine

HERE = Path(__file__).resolve().parent
TRAINERS = ("alone", "hora", "ddp", "fsdp2")
NAMES = {"alone": "no communication", "hora": "Hora", "ddp": "DDP", "fsdp2": "FSDP2"}
MODELS = ("mlp", "transformer")
TYPES = ("float32", "bfloat16")
MEMORY = ("kept", "fresh")
KEPT = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296"


# What a rank runs.


def mlp() -> tuple[Any, Any, Any]:
    """25 million parameters; model, input and loss."""
    import torch
    from torch import nn

    net = nn.Sequential(
        *(nn.Linear(1024, 3072), nn.ReLU(), nn.Linear(3072, 6144), nn.ReLU()),
        nn.Linear(6144, 512),
    )
    return net, torch.randn(8, 1024), lambda out: out.float().square().mean()


def transformer() -> tuple[Any, Any, Any]:
    """The network of examples/torch_charlm.py --large, 10.8 million; on 4 times 64 letters."""
    import torch
    from torch.nn import functional

    sys.path.insert(0, str(HERE.parent / "examples"))
    from torch_charlm import Transformer

    letters = torch.randint(128, (4, 65))

    def loss(out: Any) -> Any:
        return functional.cross_entropy(out.float().flatten(0, 1), letters[:, 1:].flatten())

    return Transformer(128, 64, 384, 6, 12), letters[:, :-1], loss


def prepare(trainer: str, net: Any) -> tuple[Any, Any, Callable[[], None]]:
    """The model and optimizer to train with, and what ends it."""
    import torch

    def sgd() -> Any:
        return torch.optim.SGD(net.parameters(), lr=1e-4)

    if trainer == "alone":
        return net, sgd(), lambda: None
    if trainer == "hora":
        import hora.torch as hora

        hora.init()
        hora.broadcast_parameters(net.state_dict(), root_rank=0)
        return net, hora.DistributedOptimizer(sgd(), net.named_parameters()), hora.shutdown
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = f"file://{os.environ['TRAINING_MEETING']}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    if trainer == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        wrapped = DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
        return wrapped, sgd(), dist.destroy_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (size,))
    for part in getattr(net, "blocks", net):
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net, sgd(), dist.destroy_process_group


def run_rank(options: argparse.Namespace) -> None:
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    net, inputs, loss_of = {"mlp": mlp, "transformer": transformer}[options.model]()
    dtype = getattr(torch, options.type)
    net.to(dtype)
    if inputs.is_floating_point():
        inputs = inputs.to(dtype)
    net, optimizer, end = prepare(options.trainer, net)
    times = []
    for number in range(options.warm_up + options.steps):
        if number == options.warm_up:
            processor = time.process_time()
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=options.memory == "fresh")
        loss_of(net(inputs)).backward()
        optimizer.step()
        times.append((time.perf_counter() - begin) * 1e3)
    processor = (time.process_time() - processor) * 1e3 / options.steps
    times = times[options.warm_up :]
    row = {"time_ms": statistics.median(times), "p10_ms": statistics.quantiles(times, n=10)[0]}
    row["processor_ms"] = processor
    Path(options.report, os.environ["RANK"]).write_text(json.dumps(row))
    end()


# What starts them.


class Case:
    """One model, type and memory; `rounds` holds, by trainer, what each of its turns took."""

    def __init__(self, model: str, dtype: str, memory: str) -> None:
        self.model, self.type, self.memory = model, dtype, memory
        self.rounds: dict[str, list[Row]] = {}

    def __str__(self) -> str:
        return f"{self.model}, {self.type}, {self.memory}"

    def run(self, trainer: str, options: argparse.Namespace) -> str:
        """A turn of one trainer. Gives what it complained about if it failed."""
        with tempfile.TemporaryDirectory() as folder:
            command = [options.horarun, "-np", str(options.np), options.python, __file__]
            command += ["--trainer", trainer, "--model", self.model, "--type", self.type]
            command += ["--memory", self.memory, "--report", folder]
            command += ["--steps", str(options.steps), "--warm-up", str(options.warm_up)]
            environment = {**os.environ, "TRAINING_MEETING": f"{folder}/meeting"}
            if self.memory == "kept":
                environment["GLIBC_TUNABLES"] = KEPT
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=options.limit, env=environment
                )
            except subprocess.TimeoutExpired:
                return f"not done after {options.limit} s"
            rows = []
            for rank in range(options.np):
                with suppress(OSError):
                    rows.append(json.loads(Path(folder, str(rank)).read_text()))
        if done.returncode != 0 or len(rows) != options.np:
            return (done.stderr or done.stdout).strip()[-500:] or "no times were written"
        slowest = {key: max(row[key] for row in rows) for key in rows[0]}
        self.rounds.setdefault(trainer, []).append(slowest)
        return ""

    def results(self) -> dict[str, Row]:
        return {
            trainer: {
                "time_ms": statistics.median(row["time_ms"] for row in rows),
                "p10_ms": min(row["p10_ms"] for row in rows),
                "processor_ms": statistics.median(row["processor_ms"] for row in rows),
            }
            for trainer, rows in self.rounds.items()
        }


def table(cases: list[Case], trainers: list[str]) -> list[str]:
    others = [trainer for trainer in trainers if trainer != "alone"]
    head = ["step"] + [f"{NAMES[t]}, ms (p10)" for t in trainers]
    head += [f"{NAMES[t]} / {NAMES['alone']} (processor)" for t in others if "alone" in trainers]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for case in cases:
        results = case.results()
        cells = [str(case)]
        for trainer in trainers:
            row = results.get(trainer)
            cells.append(f"{row['time_ms']:.1f} ({row['p10_ms']:.1f})" if row else "")
        if "alone" in trainers:
            base = results.get("alone")
            for trainer in others:
                row = results.get(trainer)
                ratios = (
                    [row[k] / base[k] for k in ("time_ms", "processor_ms")] if row and base else []
                )
                cells.append("{:.2f} ({:.2f})".format(*ratios) if ratios else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(options: argparse.Namespace, cases: list[Case], about: dict[str, object]) -> None:
    where = Path(options.results)
    where.mkdir(parents=True, exist_ok=True)
    stem = where / f"{datetime.date.today()}-training-{options.np}"
    report = {
        "machine": about,
        "ranks": options.np,
        "rounds": options.rounds,
        "steps": options.steps,
        "cases": {str(case): case.rounds for case in cases},
    }
    lines = [
        f"# A training step, {options.np} ranks",
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}; "
        f"load {about['load']:.1f}; {options.rounds} interleaved rounds of {options.steps} steps.",
        "",
        *table(cases, options.trainers),
    ]
    Path(f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    Path(f"{stem}.md").write_text("\n".join(lines) + "\n")
    print(f"written: {stem}.json, {stem}.md", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-np", type=int, default=2, help="number of ranks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="measured in each turn")
    parser.add_argument("--warm-up", type=int, default=8, help="steps before")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a turn")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--memories", nargs="+", choices=MEMORY, default=MEMORY)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--horarun", default=shutil.which("horarun"), help="the launcher")
    parser.add_argument("--results", default=str(HERE / "results"))
    for name in ("--trainer", "--model", "--type", "--memory", "--report"):
        parser.add_argument(name, help=argparse.SUPPRESS)  # how a rank is told what to run
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.trainer:
        run_rank(options)
        return
    if not options.horarun:
        sys.exit("no horarun in PATH: name it with --horarun")
    options.trainers = list(options.trainers)
    about = machine()
    cases = [Case(m, t, a) for m in options.models for t in options.types for a in options.memories]
    left_out: set[str] = set()
    for number in range(options.rounds):
        for case in cases:
            for trainer in options.trainers:
                if trainer in left_out:
                    continue
                print(f"round {number + 1}, {case}: {NAMES[trainer]}", file=sys.stderr)
                if complaint := case.run(trainer, options):
                    print(f"left out: {NAMES[trainer]}: {complaint}", file=sys.stderr)
                    left_out.add(trainer)
                else:
                    print(f"  {case.rounds[trainer][-1]['time_ms']:.1f} ms", file=sys.stderr)
        write(options, cases, about)
    print("\n".join(table(cases, options.trainers)))


if __name__ == "__main__":
    main()
