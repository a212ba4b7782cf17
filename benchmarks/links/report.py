"""Tables and pictures of turns that have ended."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chart import Axis, Legend, Panel, figure, style
from kept_runs import Run, rows, stem
from links import bits_per_second
from run_all import machine
from trainers import ALONE

EVERY = 10  #: steps between losses
IN_A_ROW = 3
WITHIN = 1.01
TARGET_STEP = 100
ADAPTIVE, RIVALS = "hora dryden", ("hora onebit", "hora strom")
RIVALS_TITLE = "better of one-bit and threshold / adaptive"


class Curve:
    """A trainer's loss, the mean of three evaluations in a row."""

    def __init__(self, losses: list[float]) -> None:
        last = range(IN_A_ROW, len(losses) + 1)
        self.points = [(EVERY * end, statistics.mean(losses[end - IN_A_ROW : end])) for end in last]

    def at(self, step: int) -> float:
        return next((loss for number, loss in self.points if number >= step), self.points[-1][1])

    def steps_to(self, target: float | None) -> int | None:
        if target is None:
            return None
        return next((step for step, loss in self.points if loss <= target), None)


class Times:
    """What a trainer's steps took on one link; medians of the rounds' medians, the least p10."""

    def __init__(self, turns: list[Run]) -> None:
        self.median = statistics.median(statistics.median(turn["times"]) for turn in turns)
        self.p10 = min(_p10(turn["times"]) for turn in turns)
        self.load = statistics.mean(turn["load"] for turn in turns)


def _p10(times: list[float]) -> float:
    return sorted(times)[len(times) // 10]


class Results:
    def __init__(self, turns: list[Run]) -> None:
        good = [turn for turn in turns if "error" not in turn]
        self.errors = [turn for turn in turns if "error" in turn]
        self.curves = {t["trainer"]: Curve(t["losses"]) for t in good if t["what"] == "loss"}
        self.sent = {t["trainer"]: t["sent"] for t in good if "sent" in t}
        self.links = list(dict.fromkeys(t["link"] for t in good if t["what"] == "step"))
        self.loads = [turn["load"] for turn in good if "load" in turn]
        self._steps = [turn for turn in good if turn["what"] == "step"]
        self._models = [turn for turn in good if turn["what"] == "model"]
        self.layers = [turn for turn in good if turn["what"] == "layer"]
        dense = self.curves.get("hora")
        self.target = dense.at(TARGET_STEP) * WITHIN if dense else None

    def times(self, link: str) -> dict[str, Times]:
        by_trainer: dict[str, list[Run]] = {}
        for turn in self._steps:
            if turn["link"] == link:
                by_trainer.setdefault(turn["trainer"], []).append(turn)
        return {trainer: Times(turns) for trainer, turns in by_trainer.items()}

    def modelled(self) -> dict[str, dict[str, float]]:
        """Milliseconds of a step, by link and trainer: the quickest without communication, as it
        was measured, and the exchange, as the cost model has it."""
        alone = [self.times(link).get(ALONE) for link in self.links]
        compute = min((each.median for each in alone if each), default=0.0)
        steps: dict[str, dict[str, float]] = {}
        for turn in self._models:
            steps.setdefault(turn["link"], {})[turn["trainer"]] = compute + turn["milliseconds"]
        return steps

    def seconds_to_loss(self, trainer: str, step_ms: float) -> float | None:
        curve = self.curves.get(trainer)
        steps = curve.steps_to(self.target) if curve else None
        return steps * step_ms / 1e3 if steps else None


def table(results: Results, link: str) -> list[str]:
    times = results.times(link)
    alone = times[ALONE].median if ALONE in times else 0.0
    reached = {t: results.seconds_to_loss(t, each.median) for t, each in times.items()}
    rivals = [s for t, s in reached.items() if s and t.startswith("ddp")]
    lines = [
        "| trainer | MB sent a step | step, ms (p10) | share in compute | steps to the loss | "
        "seconds to the loss | fastest DDP over it | load |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for trainer, each in times.items():
        curve, seconds = results.curves.get(trainer), reached[trainer]
        sent = results.sent.get(trainer)
        steps = curve.steps_to(results.target) if curve else None
        cells = [trainer, f"{sent / 1e6:.2f}" if sent else ""]
        cells += [f"{each.median:.0f} ({each.p10:.0f})", f"{alone / each.median:.2f}"]
        cells += [str(steps) if steps else "not reached" if curve and results.target else ""]
        cells += [f"{seconds:.1f}" if seconds else ""]
        cells += [f"{min(rivals) / seconds:.1f}" if seconds and rivals else ""]
        cells += [f"{each.load:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def layer_cases(results: Results) -> dict[str, dict[int, list[Run]]]:
    cases: dict[str, dict[int, list[Run]]] = {}
    for turn in results.layers:
        cases.setdefault(turn["trainer"], {}).setdefault(turn["count"], []).append(turn)
    return cases


def layer_table(results: Results) -> list[str]:
    """A row for each size; beside the times, the better of one-bit and threshold over adaptive."""
    cases = layer_cases(results)
    head = " | ".join(f"{trainer}, ms (p10)" for trainer in cases)
    lines = [f"| elements | {head} | {RIVALS_TITLE} |", "|" + "---:|" * (len(cases) + 2)]
    for count in sorted({count for turns in cases.values() for count in turns}):
        times = {t: Times(turns[count]) for t, turns in cases.items() if count in turns}
        rivals = [times[name].median for name in RIVALS if name in times]
        both = rivals and ADAPTIVE in times
        ratio = f"{min(rivals) / times[ADAPTIVE].median:.2f}" if both else ""
        cells = [f"{each.median:.1f} ({each.p10:.1f})" for each in times.values()]
        lines.append(f"| {count} | " + " | ".join(cells) + f" | {ratio} |")
    return lines


def wire_table(results: Results) -> list[str]:
    """The largest layer: what was sent, and how long it took beside its bytes over the rate."""
    cases = layer_cases(results)
    count = max((count for turns in cases.values() for count in turns), default=0)
    lines = [
        f"| {count} elements | MB sent | bytes / rate, ms | ms (p10) | over bytes / rate |",
        "|---|---:|---:|---:|---:|",
    ]
    for trainer, turns in cases.items():
        if count not in turns:
            continue
        sent, times = turns[count][0]["sent"], Times(turns[count])
        rate = bits_per_second(turns[count][0]["link"].rsplit(" ", 1)[-1])
        least = sent * 8e3 / rate
        took = f"{times.median:.1f} ({times.p10:.1f}) | {times.median / least:.2f}"
        lines.append(f"| {trainer} | {sent / 1e6:.2f} | {least:.1f} | {took} |")
    return lines


def modelled_table(results: Results) -> list[str]:
    """What the model has for links that were not measured."""
    steps = results.modelled()
    if not steps:
        return []
    lines = ["", "## Modelled", ""]
    lines += [
        "A step: the quickest without communication above, and the exchange as the cost model"
    ]
    lines += [
        "has it (`hora compress explain`), with codecs as fast as here. Nothing overlaps.",
        "",
    ]
    heads = [f"{link}, ms | seconds to the loss" for link in steps]
    lines += [f"| trainer | {' | '.join(heads)} |", "|---|" + "---:|---:|" * len(steps)]
    for trainer in next(iter(steps.values())):
        cells = []
        for times in steps.values():
            seconds = results.seconds_to_loss(trainer, times[trainer])
            cells.append(f"{times[trainer]:.0f} | {f'{seconds:.1f}' if seconds else ''}")
        lines.append(f"| {trainer} | {' | '.join(cells)} |")
    return lines


def training_picture(results: Results) -> str:
    """The loss against time, a panel for each link; the last ones are modelled."""
    trainers = list(results.curves)
    legend = Legend((50, 24), trainers, 940)
    sheets: list[Any] = [legend]
    top = legend.height + 54
    panels: list[tuple[str, dict[str, float]]] = []
    for link in results.links:
        panels.append((link, {t: each.median for t, each in results.times(link).items()}))
    panels += [(f"{link}, modelled", steps) for link, steps in results.modelled().items()]
    for index, (title, times) in enumerate(panels):
        place = (60 + index % 2 * 490, top + index // 2 * 350)
        if panel := _panel(results, title, times, place):
            sheets.append(panel)
    return figure((1010, top + -(-len(panels) // 2) * 350), sheets)


def _panel(
    results: Results, title: str, times: dict[str, float], place: tuple[float, float]
) -> Panel | None:
    """The loss against time where a step takes `times`; None where nobody's loss is known."""
    lines = {
        trainer: [(step * times[trainer] / 1e3, loss) for step, loss in curve.points]
        for trainer, curve in results.curves.items()
        if trainer in times
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return None
    x = Axis.around("seconds", (second for second, _ in points))
    y = Axis.around("", (loss for _, loss in points))
    panel = Panel(place, (420, 260), f"{title}: loss on what is held out", x, y)
    for trainer, line in lines.items():
        panel.curve(line, *style(list(results.curves).index(trainer)))
    if target := results.target:
        panel.line(panel.at(x.low, target), panel.at(x.high, target), "#777777")
    return panel


def layer_picture(results: Results) -> str:
    lines = {
        trainer: [(count, Times(turns[count]).median) for count in sorted(turns)]
        for trainer, turns in layer_cases(results).items()
    }
    points = [point for line in lines.values() for point in line]
    x = Axis.around("elements of the layer", (count for count, _ in points))
    y = Axis.around("", (ms for _, ms in points))
    panel = Panel((60, 70), (520, 300), "ms for an allreduce, 4 hosts, 1 Gbit/s", x, y)
    for index, trainer in enumerate(lines):
        panel.curve(lines[trainer], *style(index))
        for count, ms in lines[trainer]:
            panel.mark(panel.at(count, ms), style(index)[0], f"{trainer}: {ms:.1f} ms")
    return figure((620, 430), [Legend((60, 22), list(lines), 520), panel])


def _page(title: str, results: Results, about: dict[str, Any], command: str) -> list[str]:
    loads = f"{min(results.loads):.1f} to {max(results.loads):.1f}" if results.loads else "unknown"
    return [
        f"# {title}",
        "",
        f"`{command}`; {about['processor']}, {about['cores']} cores, Linux {about['kernel']}; load "
        f"{loads}, the ranks' own included. The hosts are namespaces of this machine, whose cores "
        "also carry their links.",
    ]


def _training(results: Results, about: dict[str, Any]) -> list[str]:
    lines = _page("Training on links", results, about, "python benchmarks/links")
    lines += [
        "",
        "A 25.6-million-parameter MLP on MNIST's images, 4 ranks, 8 images each.",
    ]
    if results.curves:
        lines[-1] += (
            f" The loss to reach: {results.target:.4f}, float32's after {TARGET_STEP} steps"
        )
        lines[-1] += " within 1 %, as the mean of three evaluations."
    for link in results.links:
        lines += ["", f"## {link}", "", *table(results, link)]
    lines += modelled_table(results)
    lines += [
        "",
        "DeepSpeed's 1-bit Adam is not compared: release 0.16.9 packs bits by CuPy, which needs a "
        "CUDA device, or by an operator that it builds for Intel's devices only; 0.19.8 has no "
        "1-bit Adam any more.",
    ]
    for turn in results.errors:
        where = turn.get("link", "no links")
        lines += ["", f"Failed: {turn['trainer']}, {where}: {turn['error'].splitlines()[-1]}"]
    return lines


def write(options: argparse.Namespace, turns: list[Run]) -> str:
    """The files of what was asked for; gives the page."""
    about = machine()
    wanted = ("layer",) if options.layers else ("loss", "step", "model")
    turns = [turn for turn in turns if turn["what"] in wanted]
    results = Results(turns)
    if options.layers:
        command = "python benchmarks/links --layers"
        lines = _page("One layer at a time", results, about, command)
        lines += ["", *layer_table(results), "", *wire_table(results)]
        draw: Callable[[Results], str] = layer_picture
    else:
        lines, draw = _training(results, about), training_picture
    name = "layers" if options.layers else "links"
    path = stem(options, name)
    Path(f"{path}.json").write_text(f'{{"machine": {json.dumps(about)}, "turns": {rows(turns)}}}\n')
    Path(f"{path}.md").write_text("\n".join(lines) + "\n")
    if results.curves or results.layers:
        Path(f"{path}.svg").write_text(draw(results))
    return "\n".join(lines)
