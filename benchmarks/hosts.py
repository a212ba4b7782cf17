"""Hora beside torch's Gloo between hosts: allreduce of float32 from Python, over links of a known
rate and delay.

    cmake --build --preset release                     # with -DHORA_BUILD_TESTS=ON: link_switch
    PATH=build/release/launcher:$PATH python benchmarks/hosts.py

The hosts are network namespaces of this machine, joined by the switch of tests/links, which needs
root or user namespaces. All contestants take turns on the same links. "plain sockets" is no
allreduce but the limit: what every host must send and receive for one, both ways at once, without
adding anything up (peers/raw_sockets.py). The last columns say how much of that limit Hora reached,
and how much of what the link could carry.
Writes benchmarks/results/<date>-hosts.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from contestants import Contestant
from run_all import machine

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "python"))
from links import Links, bits_per_second  # noqa: E402

LIMIT = "plain sockets"
# Of 1538 bytes on the wire 1448 are payload.
PAYLOAD = 1448 / 1538


class Scenario(NamedTuple):
    hosts: int
    ranks: int
    rate: str
    delay_ms: float
    most: int
    factor: int

    def __str__(self) -> str:
        delay = f", {self.delay_ms:g} ms" if self.delay_ms else ""
        ranks = "rank" if self.ranks == 1 else "ranks"
        return f"{self.hosts} hosts of {self.ranks} {ranks}, {self.rate}{delay}"

    def least_time_us(self, size: int) -> float:
        """What the link allows: every host sends and receives 2 (n - 1) / n of the bytes."""
        share = 2 * (self.hosts - 1) / self.hosts
        return share * size * 8e6 / (bits_per_second(self.rate) * PAYLOAD)


SCENARIOS = [
    Scenario(2, 1, "1gbit", 0, 64 << 20, 1 << 24),
    Scenario(4, 1, "1gbit", 0, 64 << 20, 1 << 24),
    Scenario(2, 2, "1gbit", 0, 64 << 20, 1 << 24),
    Scenario(2, 1, "10gbit", 0, 64 << 20, 1 << 24),
    Scenario(2, 1, "100mbit", 20, 1 << 20, 64),
    Scenario(4, 1, "100mbit", 20, 1 << 20, 64),
]


def contestants(scenario: Scenario, links: Links, folder: Path, limits: list[str]):
    horarun = shutil.which("horarun")
    assert horarun, "no horarun in PATH"
    hosts = ",".join(f"{address}:{scenario.ranks}" for address in links.addresses)
    launch = links.argv(0, horarun, "--rsh", links.rsh(folder), "-H", hosts)
    script = [sys.executable, str(HERE / "peers" / "framework_allreduce.py"), "hora", *limits]
    yield Contestant("hora", [*launch, *script])
    if scenario.ranks > 1:
        yield Contestant("hora, flat", [*launch, "--hierarchical", "0", *script])
    yield Contestant("hora over gloo", [*launch, "--backend", "gloo", *script])
    gloo = [sys.executable, str(HERE / "peers" / "torch_gloo.py"), *limits]
    variables = [f"MASTER_ADDR={links.addresses[0]}", "MASTER_PORT=29511"]
    flags = [word for each in [*variables, "GLOO_SOCKET_IFNAME=eth0"] for word in ("-x", each)]
    yield Contestant("torch gloo", [*launch, *flags, *gloo])
    one_each = ",".join(f"{address}:1" for address in links.addresses)
    launch = links.argv(0, horarun, "--rsh", links.rsh(folder), "-H", one_each)
    raw = [sys.executable, str(HERE / "peers" / "raw_sockets.py"), *limits]
    yield Contestant(LIMIT, [*launch, *raw, "--addresses", ",".join(links.addresses)])


def measure(scenario: Scenario, options: argparse.Namespace) -> list[Contestant]:
    limits = ["--least", "4", "--most", str(min(scenario.most, options.most)), "--factor"]
    limits += [str(scenario.factor), "--iterations", str(options.iterations), "--json", "@JSON@"]
    with (
        tempfile.TemporaryDirectory() as name,
        Links(scenario.hosts, rate=scenario.rate, delay_ms=scenario.delay_ms) as links,
    ):
        folder = Path(name)
        group = list(contestants(scenario, links, folder, limits))
        for number in range(options.rounds):
            for one in group:
                print(f"{scenario}, round {number + 1}: {one.name}", file=sys.stderr)
                one.run(folder)
    return group


def table(scenario: Scenario, group: list[Contestant]) -> list[str]:
    results = [(one.name, one.results()) for one in group if one.rounds]
    if not results:
        return ["nothing ran"]
    names = " | ".join(name for name, _ in results)
    lines = [
        f"| bytes: ms (p10) | {names} | share of the limit | share of the link |",
        "|" + "---:|" * (len(results) + 3),
    ]
    for size, first in results[0][1].items():
        rows = [result[size] for _, result in results]
        cells = [f"{row['time_us'] / 1e3:.3f} ({row['p10_us'] / 1e3:.3f})" for row in rows]
        limit = next((result[size]["time_us"] for name, result in results if name == LIMIT), 0)
        shares = [least / first["time_us"] for least in (limit, scenario.least_time_us(size))]
        cells += [f"{share:.0%}" for share in shares]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", default=str(HERE / "results"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=50, help="at most")
    parser.add_argument("--most", type=int, default=64 << 20)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of scenarios, from 1")
    options = parser.parse_args()
    chosen = options.only or range(1, len(SCENARIOS) + 1)
    measured = [(SCENARIOS[i - 1], measure(SCENARIOS[i - 1], options)) for i in chosen]
    about = machine()
    lines = [
        "# float32 sum allreduce between hosts, from Python",
        "",
        f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}; "
        f"load {about['load']:.1f}; medians of {options.rounds} interleaved rounds; the hosts are "
        "namespaces of this machine, whose cores also carry their links.",
    ]
    for scenario, group in measured:
        lines += ["", f"## {scenario}", "", *table(scenario, group)]
    stem = Path(options.results) / f"{datetime.date.today()}-hosts"
    stem.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": about,
        "scenarios": {str(one): {c.name: c.rounds for c in group} for one, group in measured},
    }
    Path(f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    Path(f"{stem}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
