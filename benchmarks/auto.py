"""`compression=auto` beside each chain that it could have taken, over links of a known rate.

    cmake --build --preset release                     # with -DHORA_BUILD_TESTS=ON: link_switch
    PATH=build/release/launcher:$PATH python benchmarks/auto.py

Four hosts of one rank, which are network namespaces of this machine (hosts.py), average a tensor
of normal numbers in place. All chains take turns in one job, which measures its links and codecs at
start as any job with HORA_COMPRESSION=auto does; `auto` is one more of them. Every turn begins with
another, since what went before changes what the next one finds (queues, windows), and ranks meet
before each exchange. Times are those of the slowest rank. What was predicted, and chosen, is rank
0's table at start.
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
ELEMENTS = [1 << 14, 1 << 18, 1 << 20, 1 << 22]
SIZES = [1 << power for power in range(10, 28, 2)]  #: those that the table has
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


MANY = 60  #: turns of a small tensor


def exchange(hvd: Any, values: Any, chain: str, name: str) -> float:
    """One, in seconds, of this rank."""
    hvd.barrier()
    began = time.perf_counter()
    hvd.allreduce_(values, name=name, op=hvd.Average, compression=chain)
    return time.perf_counter() - began


def rank_main(options: argparse.Namespace) -> None:
    """What each rank does."""
    import torch

    import hora.torch as hvd

    torch.set_num_threads(1)
    hvd.init()
    rows = []
    for count in options.elements:
        gradient = torch.randn(count, generator=torch.Generator().manual_seed(hvd.rank()))
        values = torch.empty_like(gradient)
        chains = list({**CHAINS, "auto": "auto"}.items())
        mine: dict[str, list[float]] = {label: [] for label, _ in chains}
        turns = max(options.turns, min(MANY, options.turns * (1 << 20) // count))
        for turn in range(turns + 1):
            first = turn % len(chains)
            for label, chain in chains[first:] + chains[:first]:
                values.copy_(gradient)
                seconds = exchange(hvd, values, chain, f"{label}{count}")
                if turn > 0:
                    mine[label].append(seconds)
        # What an exchange took is what its slowest rank took.
        all_ranks = hvd.allgather(torch.tensor([list(mine.values())]), name=f"times{count}")
        times = all_ranks.amax(0).tolist()
        medians = dict(zip(mine, map(statistics.median, times), strict=True))
        rows.append({"elements": count, "turns": turns, "seconds": medians})
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
    assert row, f"no {size} in {table}"
    return row.group(1)


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
        head = " | ".join(["elements", *labels, "auto took", "that to the best"])
        lines.append(f"| {head} | auto to the best | to bf16 | turns |")
        lines.append("|" + "---:|" * (len(labels) + 6))
        for row in result["rows"]:
            times = row["seconds"]
            best = min(times[label] for label in CHAINS)
            cells = [f"{1e3 * times[label]:.3g}" for label in labels]
            word = chosen(result["table"], row["elements"])
            shares = [
                times[word] / best,  # the chain itself: where it isn't the best, auto chose badly
                times["auto"] / best,
                times["auto"] / times["bf16"],
            ]
            cells += [word, *(f"{share:.2f}" for share in shares)]
            lines.append(f"| {row['elements']} | {' | '.join(cells)} | {row['turns']} |")
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
    parser.add_argument("--elements", type=int, nargs="+", default=ELEMENTS, choices=SIZES)
    parser.add_argument("--turns", type=int, default=9, help="of a large tensor, at least")
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
