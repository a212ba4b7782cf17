"""Random faults on jobs of 4 ranks on 2 hosts: no hang, no wrong sum, and the guilty is named.

    PATH=build/dev/launcher:$PATH python tests/faults/campaign.py --count 1000

Hosts are network namespaces (tests/links), so this needs root or user namespaces. Ranks are killed
or stopped, links are cut, go down, or carry packets one way only, while the job starts, while it
computes sums that are known exactly, or while it ends. For each fault: everybody else has an error
within the failure timeout (2 s) that names the lost rank, or both ends of the link; nobody had a
wrong sum; nothing is left behind. Prints what was not so, with the number that repeats it (--only
NUMBER), then a table: how long after the fault the last survivor had its error.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from judge import Verdict, judge
from plan import FAILURE_TIMEOUT, KINDS, draw
from trial import START_TIMEOUT, Trial, run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from run_all import machine  # noqa: E402


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def row_of(kind: str, starting: bool, judged: list[tuple[Trial, Verdict]]) -> dict:
    group = [
        (trial, verdict)
        for trial, verdict in judged
        if trial.fault.kind == kind and (trial.fault.moment == "start") == starting
    ]
    times = [verdict.detection for _, verdict in group if verdict.detection is not None]
    row = {
        "kind": f"{kind}, starting" if starting else kind,
        "count": len(group),
        "noticed": len(times),
    }
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
        row[name] = round(1e3 * percentile(times, share), 1) if times else None
    problems = [problem for _, verdict in group for problem in verdict.problems]
    row["ended by horarun"] = sum(v.outcome == "ended by horarun" for _, v in group)
    row["too slow"] = sum(v.outcome == "too slow a machine" for _, v in group)
    row["went on"] = sum(v.outcome == "went on" for _, v in group)
    row["misattributions"] = sum("blames" in each for each in problems)
    row["wrong sums"] = sum("wrong sum" in each for each in problems)
    row["hangs"] = sum("not done" in each or "only after" in each for each in problems)
    row["other problems"] = (
        len(problems) - row["misattributions"] - row["wrong sums"] - row["hangs"]
    )
    return row


def table(rows: list[dict]) -> list[str]:
    def cell(value: object) -> str:
        return "-" if value is None else str(value)

    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---|" + "---:|" * (len(names) - 1))
    return lines + ["| " + " | ".join(cell(row[name]) for name in names) + " |" for row in rows]


def told(trial: Trial, verdict: Verdict) -> str:
    lines = [f"fault {trial.fault.number}: {trial.fault}"]
    lines += [f"  {problem}" for problem in verdict.problems]
    for rank, notes in enumerate(trial.notes):
        lines += [
            f"  rank {rank}: {at - trial.struck:+.3f} {what} {text}" for at, what, text in notes
        ]
    return "\n".join([*lines, f"  exit code {trial.code}; printed:", trial.output])


def slow(trial: Trial, verdict: Verdict) -> bool:
    """No problem yet, but worth a look."""
    if trial.fault.moment == "start" or verdict.detection is None:
        return trial.too_slow
    return verdict.detection > (0.2 if trial.fault.kind == "kill" else 1.3 * FAILURE_TIMEOUT)


def until_interrupted(
    pool: concurrent.futures.Executor, trials: Iterator[Trial]
) -> Iterator[Trial]:
    """Ctrl-C ends it; what there is until then is told."""
    try:
        yield from trials
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)


def campaign(options: argparse.Namespace, numbers: list[int]) -> list[tuple[Trial, Verdict]]:
    judged = []
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        faults = [draw(options.seed, number, options.kinds) for number in numbers]
        for trial in until_interrupted(pool, pool.map(run, faults)):
            verdict = judge(trial)
            judged.append((trial, verdict))
            if verdict.problems or options.verbose or slow(trial, verdict):
                print(told(trial, verdict), flush=True)
            if len(judged) % 25 == 0:
                bad = sum(bool(verdict.problems) for _, verdict in judged)
                print(f"{len(judged)} of {len(numbers)} faults in {time.monotonic() - began:.0f} s;"
                      f" {bad} with problems", flush=True)  # fmt: skip
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=4, help="side by side")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these faults again")
    parser.add_argument("--verbose", action="store_true", help="tell of each fault")
    parser.add_argument("--results", help="folder for <date>-faults.json and .md")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & had it ignore
    memory = sorted(os.listdir("/dev/shm"))
    judged = campaign(options, options.only or list(range(options.count)))
    rows = [row_of(kind, starting, judged) for kind in options.kinds for starting in (False, True)]
    rows = [row for row in rows if row["count"]]
    bad = sum(bool(verdict.problems) for _, verdict in judged)
    new = sorted(set(os.listdir("/dev/shm")) - set(memory))
    lines = [*table(rows), "", f"{len(judged)} faults, {bad} with problems; new in /dev/shm: {new}"]
    print("\n".join(lines))
    if options.results:
        write_results(options, rows, judged, lines)
    return 1 if bad else 0


def write_results(options, rows, judged, lines) -> None:
    about = machine()
    Path(options.results).mkdir(parents=True, exist_ok=True)
    stem = Path(options.results) / f"{datetime.date.today()}-faults"
    command = f"python tests/faults/campaign.py --seed {options.seed} --count {options.count}"
    faults = [{**trial.fault._asdict(), **verdict._asdict()} for trial, verdict in judged]
    report = {"machine": about, "command": command, "kinds": rows, "faults": faults}
    Path(f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    head = [
        "# Random faults on 4 ranks over 2 hosts",
        "",
        f"`{command}`, {options.jobs} jobs side by side; {about['processor']}, {about['cores']} "
        f"cores, Linux {about['kernel']}; failure timeout {FAILURE_TIMEOUT:g} s, start timeout "
        f"{START_TIMEOUT} s. Times are from the fault until the last survivor had its error; of "
        "jobs that had started, and of those that were starting.",
        "",
        *(f"- {kind}: {KINDS[kind]}" for kind in options.kinds),
        "",
    ]
    Path(f"{stem}.md").write_text("\n".join(head + lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
