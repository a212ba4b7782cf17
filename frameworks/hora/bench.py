"""`hora bench compressor`: what a compressor is worth, beside float32, bf16, topk and onebit.

Sizes, speed and error on one tensor; how far training gets with it on a convex problem, over the
real engine; and what the cost model makes of both at four bandwidths.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pathlib
import re
import sys
import time
from typing import NamedTuple

import numpy as np

from hora import _native
from hora.constants import DType, Op, ReduceOp
from hora.testing import gradient

RIVALS = {"bf16": "bf16", "topk 1%": "ef+topk:ratio=1%", "onebit": "onebit"}
BANDWIDTHS = {"100 Mbit/s": 1.25e7, "1 Gbit/s": 1.25e8, "10 Gbit/s": 1.25e9, "100 Gbit/s": 1.25e10}
TIMED_SECONDS = 0.8  #: for each chain
MARKS = (10, 30, 100, 300, 1000)  #: steps after which the loss is shown


class Speed(NamedTuple):
    """Seconds for each element, as the cost model wants them (ops/exchange_cost.h)."""

    encode: float = 0
    decode: float = 0
    settle: float = 0


class Cost(NamedTuple):
    """What a chain does to one tensor."""

    payload: int  # bytes that travel; 4 for each element without a chain
    speed: Speed = Speed()
    error: float = 0  # |x - decode(encode(x))| / |x|, of a first step
    memory: int = 0  # bytes
    trial: _native.CodecTrial | None = None

    def seconds(self, ranks: int, bandwidth: float) -> float:
        """An exchange, by the cost model that `compression=auto` goes by."""
        if self.trial is None:
            return _native.dense_seconds(ranks, bandwidth, self.payload // 4)
        return self.trial.predicted_seconds(ranks, bandwidth, *self.speed)


def chain_named(text: str) -> str:
    """A chain, or that of `module:Class` or `file.py:Class`. Errors: ValueError, ImportError."""
    named = re.fullmatch(r"([\w./-]+):(\w+)", text)
    if not named:
        return text
    from hora.compression import chain_of

    module_name, class_name = named.groups()
    if module_name.endswith(".py"):
        path = pathlib.Path(module_name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise ValueError(f"there is no {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, ".")
        module = importlib.import_module(module_name)
    if not hasattr(module, class_name):
        raise ValueError(f"{module_name} has no class {class_name}")
    return chain_of(getattr(module, class_name))


def cost_of(chain: str, count: int) -> Cost:
    """Measures a chain on one tensor of `count` elements."""
    rows = max(1, count // 1024)
    trial = _native.CodecTrial(chain, rows, count // rows)
    values = gradient(trial.count, 1)
    payload = trial.encode(values)
    result = np.zeros(trial.count, np.float32)
    trial.finish(payload, result)
    error = float(np.linalg.norm(result - values) / np.linalg.norm(values))
    speed = Speed(*trial.measure(time.perf_counter_ns, TIMED_SECONDS))
    sent = len(payload) if trial.traits["varies"] else trial.round_bytes
    return Cost(sent, speed, error, trial.memory_bytes, trial)


class Problem:
    """A quadratic in 1024 dimensions, of condition 100, whose gradients differ from rank to rank.

    Shaped like a matrix of 32 x 32; the least loss is 0, and every run begins with 1.
    """

    SIDE = 32

    def __init__(self, ranks: int) -> None:
        draw = np.random.default_rng(0)
        count = self.SIDE**2
        self.curvature = draw.permutation(np.logspace(0, -2, count)).astype(np.float32)
        self.optimum = draw.standard_normal(count).astype(np.float32)
        shifts = draw.standard_normal((ranks, count)).astype(np.float32)
        self.shifts = 0.3 * (shifts - shifts.mean(0))
        self.noise = draw
        self.scale = float(self.curvature @ self.optimum**2)

    def loss(self, weights: np.ndarray) -> float:
        """Of weights that all ranks have."""
        return float(self.curvature @ (weights - self.optimum) ** 2) / self.scale

    def gradient(self, rank: int, weights: np.ndarray) -> np.ndarray:
        """Of one rank's part, with noise as of a batch."""
        noise = self.noise.standard_normal(len(weights)).astype(np.float32)
        return self.curvature * (weights - self.optimum) + self.shifts[rank] + 0.05 * noise


def losses_of(chain: str, ranks: int) -> list[float]:
    """Losses at MARKS: ranks in this process, each with an engine of its own."""
    problem = Problem(ranks)
    engines = _native.Engine.start_local(ranks)
    weights = np.zeros(problem.SIDE**2, np.float32)
    losses = []
    for step in range(1, MARKS[-1] + 1):
        sent = [problem.gradient(rank, weights) for rank in range(ranks)]
        handles = [
            engine.submit(
                *(Op.ALLREDUCE, array.ctypes.data, array.ctypes.data, DType.FLOAT32),
                *((problem.SIDE, problem.SIDE), "w", ReduceOp.AVERAGE, 0, 0, 1.0, 1.0, chain, 0, 0),
            )
            for engine, array in zip(engines, sent, strict=True)
        ]
        for engine, handle in zip(engines, handles, strict=True):
            engine.wait(handle)
        weights -= np.float32(0.1 if step <= MARKS[-2] else 0.02) * sent[0]
        if step in MARKS:
            losses.append(problem.loss(weights))
    _leave(engines)
    return losses


def _leave(engines: list[_native.Engine]) -> None:
    """All at once: each waits for the others."""
    import threading

    threads = [threading.Thread(target=engine.shutdown) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def page(name: str, chain: str, count: int, ranks: int) -> str:
    """What `hora bench compressor` prints."""
    chains = {"float32": "none", **RIVALS, name: chain}
    costs = {
        label: Cost(4 * count) if one == "none" else cost_of(one, count)
        for label, one in chains.items()
    }
    rows = [["chain", "bytes", "ratio", "encode GB/s", "decode GB/s", "error", "memory B/element"]]
    for label, cost in costs.items():
        speeds = [f"{4e-9 / each:.2f}" if each else "-" for each in cost.speed[:2]]
        ratio, memory = f"{4 * count / cost.payload:.1f}", f"{cost.memory / count:.1f}"
        rows.append([label, str(cost.payload), ratio, *speeds, f"{cost.error:.3f}", memory])
    text = f"{_native.CodecTrial(chain, 1, 1).canonical}\n\n"
    text += f"One tensor of {count} elements, one core; error: of the first step, over |x|.\n"
    text += _table(rows) + "\n\n"

    curves = {label: losses_of(one, ranks) for label, one in chains.items()}
    text += f"Loss after so many steps, {ranks} ranks, a convex problem; 1 at the start.\n"
    heads = [["chain", *(str(mark) for mark in MARKS)]]
    text += _table(
        heads + [[label, *(f"{loss:.2g}" for loss in curve)] for label, curve in curves.items()]
    )
    limit = 1.1 * curves["float32"][-1]
    reached = "reaches" if curves[name][-1] <= limit else "does not reach"
    text += f"\n{name} {reached} float32's loss within 10 %.\n\n"

    text += f"An exchange of that tensor between {ranks} hosts, by the cost model"
    trial = costs[name].trial
    if trial and trial.traits["varies"]:
        text += f", which reckons with\nthe longest payloads that {name} may have"
    text += ".\n"
    rows = [["link", *costs, "quickest"]]
    for link, bandwidth in BANDWIDTHS.items():
        times = {label: cost.seconds(ranks, bandwidth) for label, cost in costs.items()}
        best = min(times, key=lambda label: times[label])
        rows.append([link, *(_time(seconds) for seconds in times.values()), best])
    return text + _table(rows) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="hora bench", description=__doc__)
    parser.add_argument("what", choices=["compressor"])
    parser.add_argument("name", help="a chain, or module:Class or file.py:Class")
    parser.add_argument("--elements", type=int, default=1 << 20, help="of the tensor")
    parser.add_argument("--ranks", type=int, default=4)
    options = parser.parse_args()
    try:
        chain = chain_named(options.name)
        if chain == "none":
            raise ValueError("'none' is float32, which is shown anyway")
        print(page(options.name, chain, options.elements, options.ranks), end="")
    except (ValueError, TypeError, ImportError, _native.HoraError) as error:
        print(f"hora bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
