"""Who takes part in run_all.py: Hora's programs, and every peer that is installed.

To add a peer: a program that writes {"rows": [{"size", "time_us", "p10_us"}]}, and an entry here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
Row = dict[str, float]


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
        """A turn. What goes wrong is told and leaves no numbers."""
        report = folder / "report.json"
        report.unlink(missing_ok=True)
        command = [word.replace("@JSON@", str(report)) for word in self.command]
        environment = {**os.environ, **self.environment}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=600, env=environment
            )
        except subprocess.TimeoutExpired:
            print(f"{self.name}: not done after 600 s", file=sys.stderr)
            return
        if done.returncode != 0 or not report.exists():
            print(f"{self.name}: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return
        rows = json.loads(report.read_text())["rows"]
        self.rounds.append({int(row["size"]): row for row in rows})

    def results(self) -> dict[int, Row]:
        """By size: the median of the rounds' medians and the least of their p10."""
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
    """Ours first in each group, in private memory as the peers; ratios are to it."""
    program = str(Path(options.build) / "benchmarks" / "collectives")
    sizes = ["-b", str(options.least), "-e", str(options.most), "-f", str(options.factor)]
    ours = [program, "-np", str(np), *sizes, "-c", "0", "--json", "@JSON@"]
    engine = [*ours, "--layer", "engine"]
    shm = [
        Contestant("hora shm, private", [*ours, "--backend", "shm"]),
        Contestant("hora shm, arena", [*ours, "--backend", "shm", "--arena"]),
        Contestant("hora engine, private", engine),
        Contestant("hora engine, arena", [*engine, "--arena"]),
        *mpis(options, np, folder),
        *oneccl(options, np, folder),
    ]
    sockets = [
        Contestant("hora tcp", [*ours, "--backend", "tcp"]),
        Contestant("hora gloo", [*ours, "--backend", "gloo"]),
    ]
    groups = [("shm", shm), ("sockets", sockets)]
    if not has_torch(options.python):
        return groups
    limits = ["--least", str(options.least), "--most", str(options.most)]
    limits += ["--factor", str(options.factor), "--json", "@JSON@"]
    script = str(HERE / "peers" / "torch_gloo.py")
    sockets.append(Contestant("torch gloo", [options.python, script, "-np", str(np), *limits]))
    python = list(from_python(options, np, limits))
    groups.append(("from Python", python))
    many = [
        Contestant(one.name, [*one.command, "--many", "200"], one.environment) for one in python
    ]
    groups.append(("from Python, 200 tensors of 10 KB at once", many))
    return groups


def mpis(options: argparse.Namespace, np: int, folder: Path) -> Iterator[Contestant]:
    """Every MPI: the one in PATH, and those of peers/install.sh."""
    plain = [str(options.least), str(options.most), str(options.factor), "@JSON@"]
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    openmpi = [*root, "--oversubscribe", "--bind-to", "none", "-np", str(np)]
    if shutil.which("mpicxx") and shutil.which("mpirun"):
        program = compiled(["mpicxx"], "mpi_allreduce.cc", folder / "mpi")
        yield Contestant("Open MPI", ["mpirun", *openmpi, program, *plain])
    else:
        left_out("MPI", "mpicxx and mpirun are not installed")
    if home := installed(options, "openmpi"):
        program = compiled([f"{home}/bin/mpicxx"], "mpi_allreduce.cc", folder / "openmpi")
        yield Contestant("Open MPI 5", [f"{home}/bin/mpirun", *openmpi, program, *plain])
    if home := installed(options, "mpich"):
        program = compiled([f"{home}/bin/mpicxx"], "mpi_allreduce.cc", folder / "mpich")
        yield Contestant("MPICH", [f"{home}/bin/mpiexec", "-np", str(np), program, *plain])
    if home := installed(options, "intel"):
        library = [f"-I{home}/include", f"{home}/lib/libmpi.so"]
        program = compiled(["g++", "-std=c++17"], "mpi_allreduce.cc", folder / "intel", library)
        launch = [f"{home}/bin/mpiexec.hydra", "-np", str(np)]
        environment = {"LD_LIBRARY_PATH": f"{home}/lib", "I_MPI_FABRICS": "shm"}
        yield Contestant("Intel MPI", [*launch, program, *plain], environment)


def oneccl(options: argparse.Namespace, np: int, folder: Path) -> Iterator[Contestant]:
    """With the settings that make it fastest on one host: no threads of its own."""
    home = installed(options, "oneccl")
    if not home:
        return
    library = [f"-I{home}/include", "-Wl,--no-as-needed,--unresolved-symbols=ignore-in-shared-libs"]
    library += [f"{home}/lib/{name}" for name in ("libccl.so.1", "libintlc.so.5", "libirc.so")]
    program = compiled(["g++", "-std=c++17"], "ccl_allreduce.cc", folder / "ccl", library)
    plain = [str(np), str(options.least), str(options.most), str(options.factor), "@JSON@"]
    environment = {"LD_LIBRARY_PATH": f"{home}/lib", "CCL_WORKER_OFFLOAD": "0", "CCL_ATL_SHM": "1"}
    yield Contestant("oneCCL", [program, *plain], environment)


def from_python(options: argparse.Namespace, np: int, limits: list[str]) -> Iterator[Contestant]:
    """The same script with Hora and with Horovod, which runs over MPI."""
    script = str(HERE / "peers" / "framework_allreduce.py")
    launcher = shutil.which("horarun")
    if not launcher:
        left_out("Hora from Python", "no horarun in PATH")
        return
    command = [launcher, "-np", str(np), options.python, script, "hora", *limits]
    yield Contestant("hora", command)
    if home := installed(options, "horovod"):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        launch = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-np", str(np)]
        yield Contestant("Horovod", [*launch, f"{home}/bin/python", script, "horovod", *limits])


def installed(options: argparse.Namespace, name: str) -> Path | None:
    home = Path(options.peers).resolve() / name
    if home.is_dir():
        return home
    left_out(name, f"no {home.parent.name}/{name}: benchmarks/peers/install.sh {name}")
    return None


def compiled(compiler: list[str], source: str, to: Path, more: list[str] | None = None) -> str:
    path = str(HERE / "peers" / source)
    subprocess.run([*compiler, "-O2", "-o", str(to), path, *(more or [])], check=True)
    return str(to)


def has_torch(python: str) -> bool:
    found = subprocess.run([python, "-c", "import torch.distributed"], capture_output=True)
    if found.returncode != 0:
        left_out("torch", f"{python} cannot import it")
    return found.returncode == 0


def left_out(name: str, why: str) -> None:
    print(f"left out: {name} ({why})", file=sys.stderr)
