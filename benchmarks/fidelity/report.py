"""Tables and pictures of runs that have ended."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from chart import Axis, Legend, Panel, figure, style
from intervals import Interval, interval
from kept_runs import Run, rows
from methods import TUNED, method_named
from problems import PROBLEMS
from run_all import machine

POINTS = 0.5  # of accuracy, in percent
SHARE = 1.0  # of the loss, in percent
PLACES = ("--folder", "--results", "--report")  # with these the numbers would be the same


class Results:
    """The runs of one problem: method by method, seed by seed."""

    def __init__(self, problem: str, runs: list[Run]) -> None:
        self.problem = problem
        self.measure = PROBLEMS[problem].measure
        self.methods: dict[str, dict[int, Run]] = {}
        for run in runs:
            self.methods.setdefault(run["method"], {})[run["seed"]] = run

    def last(self, method: str) -> list[dict[str, float]]:
        return [run["curve"][-1] for run in self.methods[method].values()]

    def difference(self, method: str, to: str) -> Interval | None:
        """Seed by seed; in points of accuracy, or percent of the other's loss."""
        ours, theirs = self.methods[method], self.methods.get(to, {})
        pairs = [
            (ours[seed]["curve"][-1], theirs[seed]["curve"][-1]) for seed in ours if seed in theirs
        ]
        if method == to or not pairs:
            return None
        if self.measure == "accuracy":
            return interval([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
        return interval([100 * (a["loss"] / b["loss"] - 1) for a, b in pairs])

    def curve(self, method: str) -> list[tuple[float, float]]:
        """(bytes, mean loss over the seeds), as long as that is a number."""
        columns = zip(*(run["curve"] for run in self.methods[method].values()), strict=True)
        points = [
            (
                statistics.mean(point["bytes"] for point in column),
                statistics.mean(point["loss"] for point in column),
            )
            for column in columns
        ]
        return [point for point in points if math.isfinite(point[1])]


def _signed(difference: Interval | None) -> str:
    if difference is None or not math.isfinite(difference.mean):
        return ""
    half = f" ± {difference.half:.2f}" if difference.half < float("inf") else ""
    return f"{difference.mean:+.2f}{half}"


def _verdict(results: Results, method: str) -> str:
    """What the interval says of a method that is held to the bound; others are shown only."""
    difference = results.difference(method, "float32")
    if difference is None or not method_named(method).memory:
        return ""
    if not math.isfinite(difference.mean):
        return "**diverged**"
    if results.measure == "accuracy":
        words = {"above": "better", "below": "**worse**", "not below": "not worse"}
    else:
        words = {"above": "**worse**", "below": "better", "not above": "not worse"}
    said = difference.verdict(POINTS if results.measure == "accuracy" else SHARE)
    return words.get(said, "undecided" if said.startswith("not") else said)


def table(results: Results) -> list[str]:
    unit = "points" if results.measure == "accuracy" else "% of loss"
    lines = [
        f"| method | chain | accuracy | loss | to float32, {unit} | | to bf16 | MB sent | "
        "MB received | times fewer |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    dense = results.last("float32")[0]["bytes"] if "float32" in results.methods else 0
    for method, runs in results.methods.items():
        last, some = results.last(method), next(iter(runs.values()))
        accuracy = statistics.mean(point["accuracy"] for point in last)
        loss = statistics.mean(point["loss"] for point in last)
        sent = last[0]["bytes"]
        cells = [method, f"`{some['chain']}`", f"{accuracy:.2%}"]
        cells.append(f"{loss:.4f}" if math.isfinite(loss) else "none")
        cells += [_signed(results.difference(method, "float32")), _verdict(results, method)]
        cells += [_signed(results.difference(method, "bf16")), f"{sent / 1e6:.2f}"]
        cells += [f"{some['received'] / 1e6:.2f}", f"{dense / sent:.1f}" if sent else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def section(results: Results) -> list[str]:
    runs = [run for by_seed in results.methods.values() for run in by_seed.values()]
    seeds = sorted({len(by_seed) for by_seed in results.methods.values()})
    some = runs[0]
    tuned = [method for method in results.methods if method in TUNED]
    bound = f"{POINTS} points" if results.measure == "accuracy" else f"{SHARE:g} % of the loss"
    return [
        "",
        f"## {results.problem}",
        "",
        f"{PROBLEMS[results.problem].what}; {some['parameters']:,} parameters, "
        f"{some['ranks']} ranks, {some['steps']} steps, "
        f"{' or '.join(map(str, seeds))} seeds. Bound: {bound}.",
        "",
        *table(results),
        *(["", "Tuned:", ""] if tuned else []),
        *(f"- `{method}`: {TUNED[method]}." for method in tuned),
    ]


def picture(all_results: list[Results]) -> str:
    """Loss against bytes, a panel for each problem."""
    names = list(dict.fromkeys(name for one in all_results for name in one.methods))
    legend = Legend((50, 24), names, 940)
    sheets: list[Any] = [legend]
    top = legend.height + 50
    for index, one in enumerate(all_results):
        curves = {name: one.curve(name)[1:] for name in one.methods}
        points = [point for curve in curves.values() for point in curve]
        x = Axis.around("bytes sent by a rank", (b for b, _ in points))
        y = Axis.around("", (loss for _, loss in points))
        place = (60 + index % 2 * 490, top + index // 2 * 380)
        panel = Panel(place, (420, 290), f"{one.problem}: loss on what is held out", x, y)
        for name, curve in curves.items():
            panel.curve(curve, *style(names.index(name)))
        sheets.append(panel)
    return figure((1010, top + -(-len(all_results) // 2) * 380), sheets)


def write(stem: Path, runs: list[Run], failures: dict[str, str]) -> str:
    """The three files; gives the page."""
    problems = list(dict.fromkeys(run["problem"] for run in runs))
    results = [Results(name, [r for r in runs if r["problem"] == name]) for name in problems]
    about = machine()
    words = [word for word in sys.argv[1:] if word not in PLACES and not word.startswith("/")]
    lines = [
        "# Fidelity: what training with compression learns",
        "",
        f"`python benchmarks/fidelity {shlex.join(words)}`".replace(" `", "`"),
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}; "
        f"load {about['load']:.1f}. Differences are means over seeds with 95 % intervals; positive "
        "points are better, positive percent of loss worse. Methods with memory have a verdict.",
    ]
    for one in results:
        lines += section(one)
    for method, why in failures.items():
        lines += ["", f"Failed: {method}: {why.splitlines()[-1]}"]
    Path(f"{stem}.json").write_text(f'{{"machine": {json.dumps(about)}, "runs": {rows(runs)}}}\n')
    Path(f"{stem}.md").write_text("\n".join(lines) + "\n")
    if results:
        Path(f"{stem}.svg").write_text(picture(results))
    return "\n".join(lines)
