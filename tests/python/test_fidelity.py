"""Goal: training with compression learns what training without it does, and sends less.

Method: benchmarks/fidelity itself, on scikit-learn's digits, two ranks and two seeds. Seeds replay
to the bit on one machine, but machines round differently, so bounds of accuracy are wide: what
breaks error feedback costs far more. Bytes are exact.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
from support import HORARUN, needs_horarun

FIDELITY = pathlib.Path(__file__).parents[2] / "benchmarks" / "fidelity"
sys.path[:0] = [str(FIDELITY), str(FIDELITY.parent)]
from intervals import Interval, interval  # noqa: E402
from kept_runs import find, keep, kept  # noqa: E402

PARAMETERS = 17_258
STEPS = 160
FORGETFUL = "noef+topk:ratio=1%"


def fidelity(folder, *words):
    path = f"{pathlib.Path(HORARUN).parent}{os.pathsep}{os.environ['PATH']}"
    start = [sys.executable, FIDELITY, "--folder", folder, "--results", folder / "results"]
    return subprocess.run(
        [*map(str, start), *map(str, words)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_horarun
def test_a_preset_with_memory_learns_what_float32_does_and_a_chain_without_does_not(tmp_path):
    words = ["--problems", "digits", "-np", 2, "--seeds", 2, "--steps", STEPS]
    done = fidelity(tmp_path, *words, "--only", "onebit", FORGETFUL)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "results").glob("*-fidelity.json")
    runs = json.loads(results.read_text())["runs"]
    ends = {(run["method"], run["seed"]): run["curve"][-1] for run in runs}
    accuracy = {
        method: [ends[method, seed]["accuracy"] for seed in (1, 2)]
        for method in ("float32", "bf16", "onebit", FORGETFUL)
    }
    close = interval([a - b for a, b in zip(accuracy["bf16"], accuracy["float32"])])
    assert abs(close.mean) < 0.01, accuracy
    assert min(accuracy["onebit"]) > min(accuracy["float32"]) - 0.05, accuracy
    assert max(accuracy[FORGETFUL]) < min(accuracy["onebit"]) - 0.05, accuracy
    dense = STEPS * 4 * PARAMETERS  # 2 (n - 1) / n of it, and n is 2
    assert {run["curve"][-1]["bytes"] for run in runs if run["method"] == "float32"} == {dense}
    assert 1.9 < dense / ends["bf16", 1]["bytes"] <= 2
    assert 20 < dense / ends["onebit", 1]["bytes"] < 32
    assert "| onebit | `onebit` |" in done.stdout


def test_what_was_cut_off_is_run_again_and_what_has_ended_is_not(tmp_path):
    path = tmp_path / "runs.jsonl"
    whole, other = ({"method": "onebit", "chain": "onebit", "seed": seed} for seed in (1, 2))
    assert kept(path) == []
    keep(path, whole | {"loss": 1.0})
    with path.open("a") as file:
        file.write(json.dumps(other)[:-9])
    assert find(kept(path), whole) == whole | {"loss": 1.0}
    assert find(kept(path), other) is None
    keep(path, other)
    assert kept(path) == [whole | {"loss": 1.0}, other]
    assert find(kept(path), whole | {"chain": "onebit:bucket=64"}) is None


def test_an_interval_is_students():
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.half == pytest.approx(4.303 / 3**0.5)
    assert interval([1.0]) == Interval(1.0, float("inf"), 1)
    assert Interval(0.1, 0.3).verdict(0.5) == "inside"
    assert interval([0.0, 0.0]).verdict(0.5) == "too few seeds"
    assert Interval(0.3, 0.3).verdict(0.5) == "not below"
    assert Interval(-0.3, 0.3).verdict(0.5) == "not above"
    assert Interval(0.3, 0.9).verdict(0.5) == "undecided"
    assert Interval(-0.9, 0.3).verdict(0.5) == "below"
    assert Interval(0.9, 0.3).verdict(0.5) == "above"


def test_a_method_that_may_be_better_by_more_than_the_bound_is_not_worse(tmp_path):
    def run(method, seed, accuracy):
        terms = {"problem": "digits", "method": method, "chain": method, "start": 0, "seed": seed}
        terms |= {"ranks": 2, "steps": 240, "rate": 0.03, "parameters": 1, "received": 8}
        return terms | {"curve": [{"step": 240, "bytes": 8, "loss": 0.5, "accuracy": accuracy}] * 2}

    for seed in range(1, 6):
        gain = 0.001 if seed % 2 else 0.009
        accuracies = {"none": 0.9, "bf16": 0.9, "onebit": 0.9 + gain, "efsign": 0.9 - gain}
        for chain, accuracy in accuracies.items():
            one = run(chain, seed, accuracy)
            keep(tmp_path / "runs.jsonl", one | ({"method": "float32"} if chain == "none" else {}))
    words = ["--problems", "digits", "-np", 2, "--seeds", 5, "--only", "onebit", "efsign"]
    done = fidelity(tmp_path, *words, "--report")
    assert done.returncode == 0, done.stderr
    verdicts = [line.split(" | ")[5] for line in done.stdout.splitlines() if "| `" in line]
    assert verdicts == ["", "", "not worse", "undecided"]


def test_a_training_that_diverged_is_said_so_and_has_no_numbers(tmp_path):
    terms = {"problem": "transformer-sgd", "start": 0, "seed": 1, "ranks": 2, "steps": 240}
    terms |= {"rate": 0.1, "parameters": 1, "received": 8}
    losses = {"float32": [4.0, 2.5, 2.0], "bf16": [4.0, 2.5, 2.0], "onebit": [4.0, 9.0, math.nan]}
    for method, curve in losses.items():
        points = [
            {"step": 120 * i, "bytes": 8 * i, "loss": loss, "accuracy": 0.1}
            for i, loss in enumerate(curve)
        ]
        chain = "none" if method == "float32" else method
        keep(tmp_path / "runs.jsonl", {**terms, "method": method, "chain": chain, "curve": points})
    words = ["--problems", "transformer-sgd", "-np", 2, "--seeds", 1, "--only", "onebit"]
    done = fidelity(tmp_path, *words, "--report")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| onebit"))
    assert "| none |  | **diverged** |" in row
    (page,) = tmp_path.rglob("*-fidelity.json")
    json.loads(page.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    (drawn,) = tmp_path.rglob("*-fidelity.svg")
    assert "nan" not in drawn.read_text()
