"""What is done to a job: drawn from a seed, so that a number repeats it."""

from __future__ import annotations

import random
from typing import NamedTuple

HOSTS, SLOTS = 2, 2
RANKS = HOSTS * SLOTS
FAILURE_TIMEOUT = 2.0  # seconds

KINDS = {
    "kill": "a rank is killed",
    "stop": "a rank is stopped, so it is silent",
    "cut": "packets between the hosts vanish",
    "half-open": "packets vanish one way",
    "down": "a host's interface goes down",
    "blip": "a cut of at most half the failure timeout: the job goes on",
}
OF_RANKS = ("kill", "stop")
# Where a job is when it happens, how often, and how much later it may be.
MOMENTS = {"start": (25, 0.35), "steady": (55, 0.3), "end": (20, 0.12)}


class Fault(NamedTuple):
    number: int
    kind: str
    moment: str
    delay: float  # seconds after the moment
    victim: int  # the rank; of a link the host, which for half-open is the one that is not heard
    undone: bool  # once the others have noticed: stopped ranks continue, links carry again
    lasts: float  # seconds, of a blip

    def __str__(self) -> str:
        what = f"rank {self.victim}" if self.kind in OF_RANKS else f"host {self.victim}"
        after = f", lasting {self.lasts:.3f} s" if self.kind == "blip" else ""
        undone = ", undone later" if self.undone else ""
        return f"{self.kind} {what}, {self.delay:.3f} s after {self.moment}{after}{undone}"

    def host_of(self, rank: int) -> int:
        return rank // SLOTS


def draw(seed: int, number: int, kinds: list[str]) -> Fault:
    """Kinds take turns, so that their counts are equal."""
    dice = random.Random(f"{seed}/{number}")
    kind = kinds[number % len(kinds)]
    weights = [weight for weight, _ in MOMENTS.values()]
    moment = "steady" if kind == "blip" else dice.choices(list(MOMENTS), weights)[0]
    return Fault(
        number,
        kind,
        moment,
        dice.uniform(0, MOMENTS[moment][1]),
        dice.randrange(RANKS if kind in OF_RANKS else HOSTS),
        kind not in ("kill", "blip") and dice.random() < 0.5,
        dice.uniform(0, FAILURE_TIMEOUT / 2) if kind == "blip" else 0,
    )
