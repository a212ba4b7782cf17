"""Runs torch_digits.py on one rank and on two, without compression and with, and compares.

python examples/digits_demo.py [--epochs N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "examples/torch_digits.py"
WITHIN = 0.02  # of one rank's accuracy: five of the 261 test images


def train(ranks: int, compression: str, epochs: int) -> dict:
    """One training run; its results."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = ["python", SCRIPT]
        if ranks > 1:
            command = ["horarun", "-np", str(ranks), *command]
        if compression != "none":
            command += ["--compression", compression]
        print(f"\n$ {' '.join(command)}", flush=True)
        command += ["--epochs", str(epochs), "--json", str(results)]
        # The same python, and the horarun beside it.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)
        return json.loads(results.read_text())


def table(runs: list[dict]) -> None:
    alone, dense = runs[0], runs[1]
    print(f"\n{'':22}{'accuracy':>9}{'seconds':>9}{'scaling':>9}{'sent by rank 0':>17}")
    for run in runs:
        ranks = f"{run['ranks']} rank{'s' if run['ranks'] > 1 else ''}, {run['compression']}"
        scaling = alone["seconds"] / run["seconds"]
        sent = run["wire_bytes"]
        less = f" ({dense['wire_bytes'] / sent:.0f}x less)" if run is not dense and sent else ""
        print(
            f"  {ranks:20}{run['accuracy']:>9.2%}{run['seconds']:>9.2f}{scaling:>8.2f}x"
            f"{sent / 1e6:>14.2f} MB{less}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    try:
        runs = [train(*run, epochs) for run in ((1, "none"), (2, "none"), (2, "onebit"))]
    except subprocess.CalledProcessError as failed:
        print(f"demo: that run ended with status {failed.returncode}", file=sys.stderr)
        return 1
    table(runs)
    worst = min(run["accuracy"] for run in runs)
    if worst < runs[0]["accuracy"] - WITHIN:
        print("demo: more ranks must not cost accuracy, and here they did", file=sys.stderr)
        return 1
    print(
        "\nThe network learned the same on one rank and on two. Next:\n"
        f"  grep -n '# hora' {SCRIPT}             the lines that made it parallel\n"
        f"  horarun -np 2 python {SCRIPT} --help  its options\n"
        "  horarun --help                              the launcher's\n"
        "  docs/tour.md                                what happens to a gradient"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
