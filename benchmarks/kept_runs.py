"""Runs that have ended, kept as lines of JSON, so that a benchmark that was cut off goes on.

A run is a dictionary: some of its terms say what was asked for (`find`), the others what came out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from pathlib import Path
from typing import Any

Run = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent


def add_flags(parser: argparse.ArgumentParser, name: str, limit: float) -> None:
    """`--folder`, `--results`, `--limit` and `--report`, of a benchmark with this name."""
    add = parser.add_argument
    add("--folder", type=Path, default=ROOT / "build" / name, help="keeps runs and data")
    add("--results", type=Path, default=ROOT / "benchmarks" / "results")
    add("--limit", type=float, default=limit, help="seconds for a run, before it counts as failed")
    add("--report", action="store_true", help="run nothing, write the pages again")


def stem(options: argparse.Namespace, name: str) -> Path:
    """Where today's pages go, less their endings; the folder is made."""
    options.results.mkdir(parents=True, exist_ok=True)
    return options.results / f"{datetime.date.today()}-{name}"


def kept(path: Path) -> list[Run]:
    """What has ended. A line that was cut off is none."""
    runs = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict):
            runs.append(run)
    return runs


def find(runs: list[Run], terms: Run) -> Run | None:
    """The last run of these terms."""
    return next((run for run in reversed(runs) if terms.items() <= run.items()), None)


def keep(path: Path, run: Run) -> None:
    """Adds a line of its own, also after one that was cut off."""
    with path.open("a+b") as file:
        if file.seek(0, 2) and not _ends_a_line(file):
            file.write(b"\n")
        file.write(json.dumps(run).encode() + b"\n")


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def rows(runs: list[Run]) -> str:
    """A JSON list with a line for each; null where a training that diverged has no number."""
    return "[\n" + ",\n".join(json.dumps(_without_nan(run)) for run in runs) + "\n]"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
