"""`compression=auto` beside each chain that it could have taken, over links of a known rate.

    cmake --build --preset release                     # with -DHORA_BUILD_TESTS=ON: link_switch
    PATH=build/release/launcher:$PATH python benchmarks/auto.py

Four hosts of one rank, which are network namespaces of this machine (hosts.py), average a tensor
of normal numbers. All chains take turns in one job, which measures its links and codecs at start as
any job with HORA_COMPRESSION=auto does; `auto` is one more of them. Times are those of the slowest
rank. What was predicted, and chosen, is rank 0's table at start.
Writes benchmarks/results/<date>-auto.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from run_all import machine

HERE = Path(__file__).resolve().parent
ELEMENTS = [1 << 14, 1 << 18, 1 << 20, 1 << 22]  #: sizes that the table has
RATES = ["100mbit", "1gbit", "10gbit"]
# What auto may take: compressors/automatic.cc.
CHAINS = {
    "none": "none",
    "lossless": "lossless:room=0.88",
    "bf16": "bf16",
    "int8": "ef+quant:bits=8,round=nearest",
    "fp8": "fp8",
    "int4": "ef+quant:bits=4,round=nearest",
    "onebit": "onebit",
}


def exchange(hvd: Any, values: Any, chain: str, name: str) -> float:
    """One, in seconds, of this rank."""
    began = time.perf_counter()
    hvd.allreduce(values, name=name, op=hvd.Average, compression=chain)
    return time.perf_counter() - began


def rank_main(options: argparse.Namespace) -> None:
    """What each rank does."""
    import torch

    import hora.torch as hvd

    torch.set_num_threads(1)
    hvd.init()
    rows = []
    for count in options.elements:
        values = torch.randn(count, generator=torch.Generator().manual_seed(hvd.rank()))
        mine: dict[str, list[float]] = {}
        chains = {**CHAINS, "auto": "auto"}
        for turn in range(options.turns + 1):
            for label, chain in chains.items():
                seconds = exchange(hvd, values, chain, f"{label}{count}")
                if turn > 0:
                    mine.setdefault(label, []).append(seconds)
        # What an exchange took is what its slowest rank took.
        all_ranks = hvd.allgather(torch.tensor([list(mine.values())]), name=f"times{count}")
        times = all_ranks.amax(0).tolist()
        medians = dict(zip(mine, map(statistics.median, times), strict=True))
        rows.append({"elements": count, "seconds": medians})
    if hvd.rank() == 0:
        Path(options.json).write_text(json.dumps(rows))
    hvd.shutdown()


def measure(rate: str, options: argparse.Namespace) -> dict[str, Any]:
    """One job at one rate."""
    sys.path.insert(0, str(HERE.parent / "tests" / "python"))
    from links import Links

    horarun = shutil.which("horarun")
    assert horarun, "no horarun in PATH"
    with tempfile.TemporaryDirectory() as name, Links(options.hosts, rate=rate) as links:
        report = Path(name) / "report.json"
        command = [horarun, "--rsh", links.rsh(Path(name))]
        command += ["-H", ",".join(f"{address}:1" for address in links.addresses)]
        command += ["--compression", "auto", "--log-level", "info", sys.executable, __file__]
        command += ["--rank", "--json", str(report), "--turns", str(options.turns), "--elements"]
        # At a slow link a large tensor says nothing that a smaller one does not.
        command += [
            str(count) for count in options.elements if rate != "100mbit" or count <= 1 << 20
        ]
        print(f"{rate} ...", file=sys.stderr)
        done = subprocess.run(
            links.argv(0, *command), capture_output=True, text=True, timeout=options.limit
        )
        if done.returncode != 0:
            sys.exit(f"{rate}: {done.stderr[-2000:]}")
        said = re.sub(r"^\[0\] ?", "", done.stdout + done.stderr, flags=re.MULTILINE)
        table = re.search(r"^auto:error=.*\n( .*\n)+", said, re.MULTILINE)
        assert table, said
        return {"rows": json.loads(report.read_text()), "table": table.group(0)}


def chosen(table: str, elements: int) -> str:
    """The last word of the table's row."""
    size = f"{elements >> 20}M" if elements >= 1 << 20 else f"{elements >> 10}k"
    row = re.search(rf"^ *{size} .* (\w+)$", table, re.MULTILINE)
    return row.group(1) if row else "?"


def page(results: dict[str, dict[str, Any]], hosts: int, about: dict[str, Any]) -> str:
    """The results for people."""
    lines = [
        "# `auto` beside each chain",
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}; "
        f"load {about['load']:.1f} at the start; {hosts} hosts of one rank, which are namespaces "
        "of this machine, whose cores carry the links, too. Milliseconds of an average, medians of "
        "the slowest rank.",
    ]
    for rate, result in results.items():
        lines += ["", f"## {rate}", ""]
        labels = [*CHAINS, "auto"]
        lines.append(f"| elements | {' | '.join(labels)} | auto took | to the best | to bf16 |")
        lines.append("|" + "---:|" * (len(labels) + 4))
        for row in result["rows"]:
            times = row["seconds"]
            best = min(times[label] for label in CHAINS)
            cells = [f"{1e3 * times[label]:.3g}" for label in labels]
            word = chosen(result["table"], row["elements"])
            shares = [f"{times['auto'] / other:.2f}" for other in (best, times["bf16"])]
            lines.append(
                f"| {row['elements']} | {' | '.join(cells)} | {word} | {' | '.join(shares)} |"
            )
        lines += ["", "Predicted at start:", "", "```", result["table"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", default=str(HERE / "results"))
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--elements", type=int, nargs="+", default=ELEMENTS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--limit", type=float, default=240, help="seconds for one rate")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        return rank_main(options)
    about = machine()
    results = {rate: measure(rate, options) for rate in options.rates}
    stem = Path(options.results) / f"{datetime.date.today()}-auto"
    report = {"machine": about, "hosts": options.hosts, "results": results}
    Path(f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    text = page(results, options.hosts, about)
    Path(f"{stem}.md").write_text(text)
    print(text)
    return None


if __name__ == "__main__":
    main()
