#!/usr/bin/env python3
"""Runs the project's checks, one stage after the other, and closes with a table.

    python3 tests/stages.py [--quick] [STAGE...]

Run it through `make test`, `make test STAGES="build cpp"` or `make test-quick`, which install what
it needs and set the environment (PATH, ccache) that all stages inherit. A stage that fails
does not stop those that can still tell something. Each has a budget in seconds, which is printed
beside what it took, and is ended at three times that. Logs: build/logs/stage-*.log; counts
come from the test programs' own reports in build/reports.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
REPORTS = ROOT / "build" / "reports"
PYTHON = str(ROOT / ".venv" / "bin" / "python")
JOBS = str(os.cpu_count() or 2)
HEARTBEAT = 60  # seconds between signs of life on a long stage
KILL_AFTER = 3  # times the budget


@dataclass
class Outcome:
    """What a stage, or one command of it, came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)  # failures and skips, for people

    def add(self, other: Outcome) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.reasons += other.reasons

    @property
    def word(self) -> str:
        if self.failed:
            return "FAILED"
        return "ok" if self.passed else "skipped"


class Stage:
    """Runs commands into one log, within one budget."""

    def __init__(self, name: str, budget: int):
        self.name, self.budget = name, budget
        self.started = time.monotonic()
        self.path = LOGS / f"stage-{name}.log"
        self.log = self.path.open("wb")
        self.outcome = Outcome()
        self.reports = REPORTS / name
        shutil.rmtree(self.reports, ignore_errors=True)
        self.reports.mkdir(parents=True)

    def command(self, *argv: str, **environment: str) -> int:
        """The exit status; the output goes to the log."""
        self.log.write(("$ " + " ".join(argv) + "\n").encode())
        self.log.flush()
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return self._wait(process)
        finally:
            self._end(process)

    def check(self, what: str, *argv: str, **environment: str) -> bool:
        """A command that is one test: it passes when the exit status is 0."""
        status = self.command(*argv, **environment)
        if status == 0:
            self.outcome.passed += 1
        else:
            self.fail(f"{what}: exit status {status}")
        return status == 0

    def fail(self, reason: str) -> None:
        self.outcome.failed += 1
        self.outcome.reasons.append(reason)

    def skip(self, reason: str) -> None:
        self.outcome.skipped += 1
        self.outcome.reasons.append(f"skipped: {reason}")

    def ctest(self, preset: str, *options: str, **environment: str) -> None:
        """Runs a preset's test programs and counts the tests in them."""
        reports = self.reports / preset
        reports.mkdir()
        junit = reports / "ctest.xml"
        status = self.command(
            *without_address_randomisation(),
            *("ctest", "--preset", preset, "-j", "2", "--output-junit", str(junit), *options),
            GTEST_OUTPUT=f"xml:{reports}/",
            **environment,
        )
        before = self.outcome.failed
        for program in junit_cases(junit):
            report = reports / f"{program.get('name')}.xml"
            counts = count_googletest(report)
            # A program that crashed leaves no report, or one that says nothing of it.
            if program.get("status") == "fail" and not counts.failed:
                counts.failed = 1
                counts.reasons.append(f"{program.get('name')} crashed or ran out of time")
            elif program.get("status") == "notrun":
                counts.failed = 1
                counts.reasons.append(f"{program.get('name')} could not be run: was it built?")
            elif not report.exists():
                counts.passed = 1
            self.outcome.add(counts)
        if status and self.outcome.failed == before:
            self.fail(f"ctest --preset {preset}: exit status {status}")

    def pytest(self, *argv: str, **environment: str) -> None:
        report = self.reports / "pytest.xml"
        status = self.command(
            *(PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--junitxml={report}", *argv),
            **environment,
        )
        counts = count_pytest(report)
        if status not in (0, 5) and not counts.failed:
            counts.failed = 1
            counts.reasons.append(f"pytest {' '.join(argv)}: exit status {status}")
        self.outcome.add(counts)

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def _wait(self, process: subprocess.Popen) -> int:
        next_beat = time.monotonic() + HEARTBEAT
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() > next_beat:
                say(f"      {self.seconds():4.0f} s  {last_line(self.path)}")
                next_beat += HEARTBEAT
            if self.seconds() > KILL_AFTER * self.budget:
                self.outcome.reasons.append(f"ended: over {KILL_AFTER} times the budget")
                return 124

    @staticmethod
    def _end(process: subprocess.Popen) -> None:
        """Ends what the command may have left running, too."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


# The stages, in order.


def build(stage: Stage, quick: bool) -> None:
    del quick
    if stage.check("configure", "cmake", "--preset", "dev"):
        stage.check("build", "cmake", "--build", "--preset", "dev")


def cpp(stage: Stage, quick: bool) -> None:
    stage.ctest("dev", **({"SIMULATION_SEEDS": "1000"} if quick else {}))


def sanitizers(stage: Stage, quick: bool) -> None:
    """The C++ tests again: one build finds stray memory and undefined behavior, one finds races."""
    del quick
    for preset in ("asan", "tsan"):
        if not stage.check(f"configure {preset}", "cmake", "--preset", preset):
            continue
        if stage.check(f"build {preset}", "cmake", "--build", "--preset", preset):
            stage.ctest(preset)


def install(stage: Stage, quick: bool) -> None:
    del quick
    stage.check("pip install .", "make", "--no-print-directory", ".venv/hora.stamp")


def python(stage: Stage, quick: bool) -> None:
    stage.pytest("tests/python", f"--ignore-glob={NAMESPACES}", *(QUICK_PYTHON if quick else ()))


def rules(stage: Stage, quick: bool) -> None:
    del quick
    stage.pytest("tests/rules_test.py")
    stage.check("ruff check", PYTHON, "-m", "ruff", "check", ".")
    stage.check("ruff format", PYTHON, "-m", "ruff", "format", "--check", ".")
    sources = project_files("*.h", "*.c", "*.cc", "*.inc")
    clang_format = str(ROOT / ".venv" / "bin" / "clang-format")
    stage.check("clang-format", clang_format, "--dry-run", "--Werror", *sources)


def namespaces(stage: Stage, quick: bool) -> None:
    """Tests that play several hosts on this one, where the kernel permits it."""
    del quick
    if not (ROOT / "build/dev/CMakeCache.txt").exists():
        stage.command("cmake", "--preset", "dev")
    stage.command("cmake", "--build", "--preset", "dev", "--target", "link_switch")
    stage.pytest(*(str(path) for path in sorted(ROOT.glob(NAMESPACES))))


def frameworks(stage: Stage, quick: bool) -> None:
    """A whole training job in each framework that could be installed."""
    del quick
    reason = ROOT / ".venv" / "no-torch.txt"
    if reason.exists():
        stage.skip(reason.read_text().strip())
        return
    if stage.check("import torch", PYTHON, "-c", "import torch, hora.torch"):
        stage.check("torch: the demo", PYTHON, "examples/digits_demo.py")


@dataclass
class Plan:
    name: str
    run: Callable[[Stage, bool], None]
    budget: int  # seconds, on two cores, with nothing cached
    needs: str = ""  # a stage that must not have failed
    quick: bool = False


PLANS = [
    Plan("build", build, 480, quick=True),
    Plan("cpp", cpp, 240, needs="build", quick=True),
    Plan("sanitizers", sanitizers, 1300, needs="build"),
    Plan("install", install, 120, quick=True),
    Plan("python", python, 600, needs="install", quick=True),
    Plan("rules", rules, 60, quick=True),
    Plan("namespaces", namespaces, 240, needs="install"),
    Plan("frameworks", frameworks, 180, needs="install"),
]

NAMESPACES = "tests/python/test_namespaces*.py"
QUICK_PYTHON = ("-m", "not slow")
PROGRESS = re.compile(r"\[\d+/\d+\] ")  # of ninja


# Reading reports.


def junit_cases(path: Path) -> Iterator[xml.Element]:
    try:
        yield from xml.parse(path).getroot().iter("testcase")
    except (OSError, xml.ParseError):
        return


def count_googletest(path: Path) -> Outcome:
    counts = Outcome()
    for case in junit_cases(path):
        if case.find("failure") is not None:
            counts.failed += 1
            counts.reasons.append(f"{case.get('classname')}.{case.get('name')}")
        elif case.get("result") in ("skipped", "suppressed"):
            counts.skipped += 1
        else:
            counts.passed += 1
    return counts


def count_pytest(path: Path) -> Outcome:
    counts = Outcome()
    for case in junit_cases(path):
        where = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed += 1
            counts.reasons.append(where)
        elif skipped is not None:
            counts.skipped += 1
            counts.reasons.append(f"skipped: {where}: {skipped.get('message')}")
        else:
            counts.passed += 1
    return counts


# Small things.


def without_address_randomisation() -> tuple[str, ...]:
    """ThreadSanitizer of g++ 12 needs its fixed addresses, which newer kernels may give away."""
    probe = ("setarch", "-R")
    if shutil.which("setarch") is None:
        return ()
    return probe if subprocess.run([*probe, "true"], capture_output=True).returncode == 0 else ()


def project_files(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    return [name for name in listed.stdout.split("\n") if name and (ROOT / name).exists()]


def last_line(path: Path) -> str:
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 2000))
        lines = log.read().decode(errors="replace").splitlines()
    return next((line[:100] for line in reversed(lines) if line.strip()), "")


def say(text: str) -> None:
    print(text, flush=True)


def counted(outcome: Outcome) -> str:
    return f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"


def show(stage: Stage) -> None:
    """The stage's line, and what people need to know about what did not pass."""
    say(f"      {stage.outcome.word}: {counted(stage.outcome)} in {stage.seconds():.0f} s")
    for reason in dict.fromkeys(stage.outcome.reasons):
        say(f"      - {reason}")
    if stage.outcome.failed:
        say(f"      the end of {stage.path.relative_to(ROOT)}:")
        lines = stage.path.read_text(errors="replace").splitlines()
        for line in [line for line in lines if not PROGRESS.match(line)][-60:]:
            say(f"      | {line}")


def table(rows: list[tuple[str, Outcome, float, int]]) -> None:
    say("")
    say(
        f"{'stage':<12}{'result':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}{'budget':>8}"
    )
    for name, outcome, seconds, budget in rows:
        late = "  over" if seconds > budget else ""
        numbers = f"{outcome.passed:>8}{outcome.failed:>8}{outcome.skipped:>9}"
        say(f"{name:<12}{outcome.word:<10}{numbers}{seconds:>9.0f}{budget:>8}{late}")
    taken, budget = sum(row[2] for row in rows), sum(row[3] for row in rows)
    say(f"{'total':<47}{taken:>9.0f}{budget:>8}")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="only what takes little time")
    options.add_argument("stages", nargs="*", help="names; all of them when none is given")
    chosen = options.parse_args()
    names = [plan.name for plan in PLANS]
    for name in chosen.stages:
        if name not in names:
            options.error(f"{name}: no such stage; there are {', '.join(names)}")
    plans = [plan for plan in PLANS if plan.name in chosen.stages or not chosen.stages]
    plans = [plan for plan in plans if plan.quick or not chosen.quick]

    # A shell that puts this in its background ignores it, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    LOGS.mkdir(parents=True, exist_ok=True)
    rows, failed = [], set()
    for number, plan in enumerate(plans, 1):
        about = (plan.run.__doc__ or "").strip().split("\n")[0]
        say(f"[{number}/{len(plans)}] {plan.name} (budget {plan.budget} s) {about}".rstrip())
        stage = Stage(plan.name, plan.budget)
        if plan.needs in failed:
            stage.skip(f"not run, because {plan.needs} failed")
        else:
            plan.run(stage, chosen.quick)
        stage.log.close()
        show(stage)
        if stage.outcome.failed or plan.needs in failed:
            failed.add(plan.name)
        rows.append((plan.name, stage.outcome, stage.seconds(), plan.budget))
    table(rows)
    total = Outcome()
    for _, outcome, _, _ in rows:
        total.add(outcome)
    say(counted(total))
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
