"""Hora beside its peers on this machine: shared memory beside MPI, Gloo beside Gloo.

    python benchmarks/run_all.py --build build/release
    python benchmarks/run_all.py --intel .peers/intel     # a venv with impi-rt and impi-devel

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
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
Row = dict[str, float]


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


class Contestant:
    """A program that writes a JSON report of sizes and times."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = command
        self.environment = environment or {}
        self.rounds: list[dict[int, Row]] = []

    def run(self, folder: Path) -> None:
        report = folder / "report.json"
        report.unlink(missing_ok=True)
        command = [word.replace("@JSON@", str(report)) for word in self.command]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        if done.returncode != 0 or not report.exists():
            print(f"{self.name}: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return
        rows = json.loads(report.read_text())["rows"]
        self.rounds.append({int(row["size"]): row for row in rows})

    def results(self) -> dict[int, Row]:
        sizes = sorted({size for one in self.rounds for size in one})
        return {
            size: {
                "time_us": statistics.median(r[size]["time_us"] for r in self.rounds if size in r),
                "p10_us": min(r[size]["p10_us"] for r in self.rounds if size in r),
            }
            for size in sizes
        }


Groups = list[tuple[str, list[Contestant]]]


def contestants(options: argparse.Namespace, np: int, folder: Path) -> Groups:
    """Ours first in each group; ratios are to it."""
    program = str(Path(options.build) / "benchmarks" / "collectives")
    sizes = ["-b", str(options.least), "-e", str(options.most), "-f", str(options.factor)]
    ours = [program, "-np", str(np), *sizes, "-c", "0", "--json", "@JSON@"]
    plain = [str(options.least), str(options.most), str(options.factor), "@JSON@"]
    shm = [
        Contestant("hora shm, arena", [*ours, "--backend", "shm", "--arena"]),
        Contestant("hora shm, private", [*ours, "--backend", "shm"]),
    ]
    engine = [*ours, "--layer", "engine"]
    shm.append(Contestant("hora engine, arena", [*engine, "--arena"]))
    shm.append(Contestant("hora engine, private", engine))
    if mpi := build_mpi(folder):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        launch = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", str(np)]
        shm.append(Contestant("Open MPI", [*launch, mpi, *plain]))
    if options.intel:
        intel = Path(options.intel).resolve()
        launch = [str(intel / "bin" / "mpiexec.hydra"), "-np", str(np)]
        environment = {"LD_LIBRARY_PATH": str(intel / "lib"), "I_MPI_FABRICS": "shm"}
        program = build_intel_mpi(intel, folder)
        shm.append(Contestant("Intel MPI", [*launch, program, *plain], environment))
    gloo = [Contestant("hora gloo", [*ours, "--backend", "gloo"])]
    if has_torch(options.python):
        script = str(HERE / "peers" / "torch_gloo.py")
        limits = ["--least", str(options.least), "--most", str(options.most)]
        limits += ["--factor", str(options.factor), "--json", "@JSON@"]
        gloo.append(Contestant("torch gloo", [options.python, script, "-np", str(np), *limits]))
    return [("shm", shm), ("gloo", gloo)]


def build_mpi(folder: Path) -> str | None:
    if not shutil.which("mpicxx") or not shutil.which("mpirun"):
        print("left out: MPI (mpicxx and mpirun are not installed)", file=sys.stderr)
        return None
    program = str(folder / "mpi_allreduce")
    source = str(HERE / "peers" / "mpi_allreduce.cc")
    subprocess.run(["mpicxx", "-O2", "-std=c++17", "-o", program, source], check=True)
    return program


def build_intel_mpi(intel: Path, folder: Path) -> str:
    program = str(folder / "intel_mpi_allreduce")
    source = str(HERE / "peers" / "mpi_allreduce.cc")
    command = ["g++", "-O2", "-std=c++17", "-o", program, source, f"-I{intel / 'include'}"]
    subprocess.run([*command, str(intel / "lib" / "libmpi.so")], check=True)
    return program


def has_torch(python: str) -> bool:
    found = subprocess.run([python, "-c", "import torch.distributed"], capture_output=True)
    if found.returncode != 0:
        print(f"left out: torch ({python} cannot import it)", file=sys.stderr)
    return found.returncode == 0


def table(group: list[Contestant]) -> list[str]:
    present = [one for one in group if one.rounds]
    if not present:
        return ["nothing ran"]
    results = [one.results() for one in present]
    head = ["size", *(f"{one.name}, us (p10)" for one in present)]
    head += [f"{one.name} / {present[0].name}" for one in present[1:]]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for size in results[0]:
        cells = [str(size)]
        rows = [result.get(size) for result in results]
        cells += [f"{r['time_us']:.2f} ({r['p10_us']:.2f})" if r else "" for r in rows]
        base = rows[0]
        cells += [f"{r['time_us'] / base['time_us']:.2f}" if r and base else "" for r in rows[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


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
    parser.add_argument("--intel", help="a folder with Intel MPI: bin, lib, include")
    options = parser.parse_args()
    for np in options.np:
        with tempfile.TemporaryDirectory() as folder:
            groups = contestants(options, np, Path(folder))
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
