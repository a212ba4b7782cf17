"""One job of 4 ranks on 2 hosts, one fault, and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
from links import Links  # noqa: E402
from plan import FAILURE_TIMEOUT, HOSTS, OF_RANKS, RANKS, SLOTS, Fault  # noqa: E402
from support import HORARUN  # noqa: E402

START_TIMEOUT, GRACE = 5, 2  # seconds
STEPS = {"start": 60, "steady": 10**9, "end": 25}
LOOK_EVERY = 0.005
LIMIT = 60  # for all of a trial; nothing takes half of that


@dataclass
class Trial:
    """`notes` has what each rank said: lists of (time, what, text). All times are of one clock."""

    fault: Fault
    notes: list[list[tuple[float, str, str]]] = field(default_factory=list)
    struck: float = 0.0
    too_slow: bool = False  # the machine: the job was over before it had got so far
    output: str = ""
    code: int = 0
    seconds: float = 0.0
    hung: str = ""
    leftovers: list[str] = field(default_factory=list)

    def said(self, rank: int, what: str) -> tuple[float, str] | None:
        for at, word, text in self.notes[rank]:
            if word == what:
                return at, text
        return None

    def last(self, rank: int) -> float:
        return max((at for at, _, _ in self.notes[rank]), default=0)

    def over(self, rank: int) -> bool:
        return any(self.said(rank, word) for word in ("error", "left", "wrong"))


class _Job:
    def __init__(self, fault: Fault, folder: pathlib.Path, links: Links) -> None:
        self.trial = Trial(fault, [[] for _ in range(RANKS)])
        self._folder, self._links = folder, links
        self._read = [0] * RANKS  # bytes of each rank's notes
        for rank in range(RANKS):
            (folder / f"rank.{rank}").touch()
        self._deadline = time.monotonic() + LIMIT
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._output = open(folder / "output", "w+")  # noqa: SIM115
        hosts = ",".join(f"{address}:{SLOTS}" for address in links.addresses)
        self.process = links.start(
            *(0, HORARUN, "--rsh", links.rsh(folder), "-H", hosts, "--grace", f"{GRACE}s"),
            *("--failure-timeout", f"{FAILURE_TIMEOUT}s", "--start-timeout", f"{START_TIMEOUT}s"),
            *(sys.executable, HERE / "rank.py", folder, STEPS[fault.moment]),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def look(self) -> None:
        """Reads what the ranks have noted since the last look."""
        for rank, notes in enumerate(self.trial.notes):
            with open(self._folder / f"rank.{rank}") as file:
                file.seek(self._read[rank])
                while (line := file.readline()).endswith("\n"):
                    notes.append(tuple(json.loads(line)))
                    self._read[rank] += len(line)

    def wait(self, condition, seconds: float = LIMIT) -> bool:
        """Until it holds, the job is over, or so long; whether it holds."""
        until = min(time.monotonic() + seconds, self._deadline)
        while True:
            ended = self.process.poll() is not None
            self.look()
            if condition():
                return True
            if ended or time.monotonic() > until:
                return False
            time.sleep(LOOK_EVERY)

    def await_moment(self) -> None:
        trial, fault = self.trial, self.trial.fault
        victims = [fault.victim] if fault.kind in OF_RANKS else range(RANKS)
        if fault.moment == "start":
            came = self.wait(lambda: any(trial.said(rank, "born") for rank in victims))
        elif fault.moment == "steady":
            came = self.wait(lambda: all(trial.said(rank, "joined") for rank in range(RANKS)))
        else:
            came = self.wait(lambda: any(trial.said(rank, "almost") for rank in range(RANKS)))
        trial.too_slow = not came
        time.sleep(fault.delay)

    def _signal(self, number: int) -> None:
        born = self.trial.said(self.trial.fault.victim, "born")
        with contextlib.suppress(ProcessLookupError):  # it had ended before
            if born:
                os.kill(int(born[1]), number)

    def strike(self) -> None:
        links, kind, victim = self._links, self.trial.fault.kind, self.trial.fault.victim
        self.trial.struck = time.monotonic()
        if kind == "kill":
            self._signal(signal.SIGKILL)
        elif kind == "stop":
            self._signal(signal.SIGSTOP)
        elif kind == "half-open":
            links.half_open(victim, 1 - victim)
        elif kind == "down":
            links.down(victim)
        else:
            links.cut(0, 1)

    def undo(self) -> None:
        if self.trial.fault.kind == "stop":
            self._signal(signal.SIGCONT)
        elif self.trial.fault.kind == "down":
            self._links.up(self.trial.fault.victim)
        elif self.trial.fault.kind != "kill":
            self._links.restore(0, 1)

    def finish(self) -> Trial:
        trial = self.trial
        try:
            trial.code = self.process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            trial.hung = f"horarun was not done after {LIMIT} s"
        self.look()
        if not trial.hung:
            trial.leftovers = list(self._links.inhabitants().values())
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        trial.leftovers += [str(path) for path in self.temporary.iterdir()]
        self._output.seek(0)
        trial.output = self._output.read()
        self._output.close()
        return trial


def survivors(fault: Fault) -> list[int]:
    return [rank for rank in range(RANKS) if fault.kind not in OF_RANKS or rank != fault.victim]


def run(fault: Fault) -> Trial:
    """Everything is gone afterwards, also if it hangs."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Links(HOSTS, rate="300mbit") as links:
        job = _Job(fault, pathlib.Path(name), links)
        job.await_moment()
        job.strike()
        if fault.kind == "blip":
            time.sleep(fault.lasts)
            job.undo()
            undone = time.monotonic()
            job.wait(
                lambda: all(job.trial.last(rank) > undone for rank in range(RANKS)),
                3 * FAILURE_TIMEOUT,
            )
            # Afterwards nobody is lost any more whom the cut made silent.
            time.sleep(max(0, undone + FAILURE_TIMEOUT - time.monotonic()))
            job.process.send_signal(signal.SIGTERM)
        elif fault.undone:
            left = survivors(fault)
            patience = 3 * FAILURE_TIMEOUT + START_TIMEOUT
            job.wait(lambda: all(job.trial.over(r) for r in left), patience)
            job.undo()
        trial = job.finish()
    trial.seconds = time.monotonic() - began
    return trial
