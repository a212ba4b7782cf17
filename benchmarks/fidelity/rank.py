"""What a rank does: the runs that are missing, one after the other; rank 0 writes each down.

    horarun -np 4 python benchmarks/fidelity/rank.py JOB

JOB is a JSON file of __main__.py: {"folder", "results", "runs": [{"problem", "method", ...}]}.
Hora is initialized anew for each run, so that none depends on what ran before it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from kept_runs import keep  # noqa: E402
from methods import Method, method_named  # noqa: E402
from problems import PROBLEMS, Problem, Task  # noqa: E402

import hora.torch as hora  # noqa: E402


def optimizer_of(task: Task, problem: Problem, method: Method, run: dict[str, Any]) -> Any:
    """What steps on reduced gradients; some reduce by themselves."""
    parameters, rate = task.net.parameters(), run["rate"]
    if method.optimizer == "signum":
        return hora.optim.Signum(parameters, lr=rate, compression=run["chain"])
    if method.optimizer == "onebitadam":
        decay = 0.01  # AdamW's own
        steps, chain = run["start"], run["chain"]
        return hora.optim.OneBitAdam(
            parameters, lr=rate, weight_decay=decay, freeze_step=steps, compression=chain
        )
    if method.optimizer == "own" and problem.adam:
        return torch.optim.AdamW(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9 if method.optimizer == "own" else 0.0)


def share(step: int, steps: int) -> float:
    """Of the learning rate: up for a twentieth of the steps, then down to 0 in a straight line."""
    up = max(1, steps // 20)
    return min((step + 1) / up, (steps - step) / (steps - up))


class Learner:
    """Takes the steps of a run; from step `start` on with its chain, before as float32."""

    def __init__(self, run: dict[str, Any], task: Task) -> None:
        self.run, self.task = run, task
        self.plain = optimizer_of(task, PROBLEMS[run["problem"]], method_named(run["method"]), run)
        self.optimizer = self.plain

    def step(self, number: int) -> None:
        reduces = isinstance(self.plain, hora.optim.Signum | hora.optim.OneBitAdam)
        if number in (0, self.run["start"]) and not reduces:
            chain = self.run["chain"] if number == self.run["start"] else "none"
            # The second one takes over from the first, with the optimizer's momentum.
            named = self.task.net.named_parameters()
            self.optimizer = hora.DistributedOptimizer(self.plain, named, chain)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run["rate"] * share(number, self.run["steps"])
        inputs, answers = (part[hora.rank() :: hora.size()] for part in self.task.batch(number))
        self.optimizer.zero_grad()
        self.task.loss(inputs, answers).backward()
        self.optimizer.step()


def point(task: Task, step: int, sent: int) -> dict[str, float]:
    """A point of the curve: loss in nats and share of right guesses, over all that is held out."""
    task.net.eval()
    sums = task.evaluate(hora.rank(), hora.size())
    task.net.train()
    loss, right, count = hora.allreduce(sums, op=hora.Sum, name=f"at {step}").tolist()
    return {"step": step, "bytes": sent, "loss": loss / count, "accuracy": right / count}


def train(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run. Bytes are what this rank sent for gradients, as the engine counts them."""
    problem, steps = PROBLEMS[run["problem"]], run["steps"]
    torch.manual_seed(run["seed"])
    task = problem.make(run["seed"], problem._replace(steps=steps), folder)
    hora.broadcast_parameters(task.net.state_dict(), root_rank=0)
    learner = Learner(run, task)
    sent, seconds, curve = 0, 0.0, [point(task, 0, 0)]
    for first in range(0, steps, problem.every):
        last = min(first + problem.every, steps)
        before, began = hora.metrics()["wire_bytes"], time.perf_counter()
        for step in range(first, last):
            learner.step(step)
        seconds += time.perf_counter() - began
        sent += hora.metrics()["wire_bytes"] - before
        curve.append(point(task, last, sent))
    total = hora.allreduce(torch.tensor(float(sent)), op=hora.Sum, name="sent").item()
    return {
        **run,
        "parameters": sum(param.numel() for param in task.net.parameters()),
        "seconds": seconds,
        "received": total / hora.size(),
        "curve": curve,
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    for run in job["runs"]:
        hora.init()
        result = train(run, Path(job["folder"]))
        speaks = hora.rank() == 0
        hora.shutdown()
        if speaks:
            keep(Path(job["results"]), result)
            end = result["curve"][-1]
            print(f"done {end['accuracy']:.4f} {end['loss']:.4f} {end['bytes']}", flush=True)


if __name__ == "__main__":
    main()
