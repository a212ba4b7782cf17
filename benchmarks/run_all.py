"""Hora beside its peers on this machine: shared memory beside MPI, Gloo beside Gloo.

    benchmarks/peers/install.sh                        # once; installs other peers into .peers
    python benchmarks/run_all.py --build build/release

Programs take turns for a few rounds, so that noise falls on all alike; each number is the median
of the rounds' medians (and the least of their p10). A peer that is not installed is left out and
named.
Writes benchmarks/results/<date>-<what>.json and .md. Last comes what the engine costs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contestants import Contestant, Groups, contestants, has_torch

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def table(group: list[Contestant]) -> list[str]:
    """Times, and below them every contestant's as a multiple of the first one's."""
    present = [one for one in group if one.rounds]
    if not present:
        return ["nothing ran"]
    results = [one.results() for one in present]
    names = " | ".join(one.name for one in present)
    rule = "|" + "---:|" * (len(present) + 1)
    times = [f"| bytes: us (p10) | {names} |", rule]
    ratios = [f"| bytes: ratio | {names} |", rule]
    for size in results[0]:
        rows = [result.get(size) for result in results]
        base = rows[0]["time_us"]
        cells = [f"{r['time_us']:.2f} ({r['p10_us']:.2f})" if r else "" for r in rows]
        times.append(f"| {size} | " + " | ".join(cells) + " |")
        cells = [f"{r['time_us'] / base:.2f}" if r else "" for r in rows]
        ratios.append(f"| {size} | " + " | ".join(cells) + " |")
    return [*times, "", *ratios] if len(present) > 1 else times


def without_folders(command: list[str]) -> str:
    """The command as others may read it: where things lie on this machine says nothing."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def write(options: argparse.Namespace, np: int, groups: Groups) -> None:
    where = Path(options.results)
    where.mkdir(parents=True, exist_ok=True)
    stem = where / f"{datetime.date.today()}-allreduce-{np}"
    about = machine()
    report = {
        "machine": about,
        "ranks": np,
        "rounds": options.rounds,
        "groups": {
            name: {
                one.name: {"command": without_folders(one.command), "rounds": one.rounds}
                for one in group
            }
            for name, group in groups
        },
    }
    lines = [
        f"# float32 sum allreduce, {np} ranks",
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}; "
        f"load {about['load']:.1f}; {options.rounds} interleaved rounds.",
    ]
    for name, group in groups:
        lines += ["", f"## {name}", "", *table(group)]
    Path(f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    Path(f"{stem}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\nwritten: {stem}.json, {stem}.md", file=sys.stderr)


def engine_costs(options: argparse.Namespace) -> None:
    """What the engine costs, in C++ and from Python; each program prints its own table."""
    stem = Path(options.results) / f"{datetime.date.today()}-engine"
    program = str(Path(options.build) / "benchmarks" / "engine")
    ranks = [str(np) for np in options.np]
    subprocess.run([program, "--np", *ranks, "--json", f"{stem}.json"], check=True)
    launcher = shutil.which("horarun")
    if not launcher or not has_torch(options.python):
        print("left out: the engine from Python (no horarun in PATH, or no torch)", file=sys.stderr)
        return
    for np in ranks:
        script = [options.python, str(HERE / "engine.py"), "--json", f"{stem}-python-{np}.json"]
        subprocess.run([launcher, "-np", np, *script], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default="build/release", help="where Hora was built")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--results", default=str(HERE / "results"))
    parser.add_argument("-np", type=int, nargs="+", default=[2, 4], help="numbers of ranks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=int, default=4)
    parser.add_argument("--most", type=int, default=64 << 20)
    parser.add_argument("--factor", type=int, default=16)
    parser.add_argument("--peers", default=str(HERE.parent / ".peers"), help="see peers/install.sh")
    parser.add_argument("--only", nargs="+", help="names of contestants, as in the tables")
    options = parser.parse_args()
    for np in options.np:
        with tempfile.TemporaryDirectory() as folder:
            groups = contestants(options, np, Path(folder))
            if options.only:
                groups = [
                    (name, [c for c in all if c.name in options.only]) for name, all in groups
                ]
            for number in range(options.rounds):
                for name, group in groups:
                    for one in group:
                        print(
                            f"{np} ranks, round {number + 1}, {name}: {one.name}", file=sys.stderr
                        )
                        one.run(Path(folder))
            write(options, np, groups)
    engine_costs(options)


if __name__ == "__main__":
    main()
