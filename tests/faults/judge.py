"""Was a trial's outcome right?"""

from __future__ import annotations

import re
from typing import NamedTuple

from plan import FAILURE_TIMEOUT, OF_RANKS, RANKS
from trial import START_TIMEOUT, Trial, survivors

LIVENESS = 3 * FAILURE_TIMEOUT  # what takes longer is a hang
SIGTERM_CODE = 128 + 15
KILLED_CODE = 128 + 9


class Verdict(NamedTuple):
    """`detection`: seconds from the fault until the last survivor had its error. `outcome`:
    "noticed"; "ended by horarun" before they had noticed; "went on"; "too slow a machine"."""

    problems: list[str]
    detection: float | None
    outcome: str


def judge(trial: Trial) -> Verdict:
    problems = [trial.hung] if trial.hung else []
    problems += [f"left behind: {each}" for each in trial.leftovers]
    for rank in range(RANKS):
        if wrong := trial.said(rank, "wrong"):
            problems.append(f"rank {rank} has a wrong sum: {wrong[1]}")
    if trial.too_slow:
        if trial.code != 0:
            problems.append(f"exit code {trial.code} before there was a fault")
        return Verdict(problems, None, "too slow a machine")
    if trial.fault.kind == "blip":
        return _judge_blip(trial, problems)
    left = survivors(trial.fault)
    errors = {rank: said for rank in left if (said := trial.said(rank, "error"))}
    for rank, (_, text) in errors.items():
        if not names_the_guilty(trial, rank, text):
            problems.append(f"rank {rank} blames another: {text}")
    fine = [rank for rank in left if trial.said(rank, "left")]
    ended = [rank for rank in left if rank not in errors and rank not in fine]
    problems += _exit_code(trial, errors, fine, left)
    if fine and trial.fault.moment == "steady":
        problems.append(f"ranks {fine} noticed nothing")
    if ended and (trial.fault.moment == "steady" or not horarun_names_the_guilty(trial)):
        problems.append(f"ranks {ended} were ended without an error")
    detection = max((at - trial.struck for at, _ in errors.values()), default=None)
    bound = LIVENESS + (START_TIMEOUT if trial.fault.moment == "start" else 0)
    if detection is not None and detection > bound:
        problems.append(f"noticed only after {detection:.1f} s")
    outcome = "noticed" if errors else "ended by horarun" if ended else "went on"
    return Verdict(problems, detection if errors and not ended else None, outcome)


def _judge_blip(trial: Trial, problems: list[str]) -> Verdict:
    for rank in range(RANKS):
        if error := trial.said(rank, "error"):
            problems.append(f"rank {rank} has an error: {error[1]}")
        elif trial.last(rank) < trial.struck + trial.fault.lasts:
            problems.append(f"rank {rank} did not go on")
    if trial.code != SIGTERM_CODE:
        problems.append(f"exit code {trial.code} instead of {SIGTERM_CODE}")
    return Verdict(problems, None, "went on")


def _exit_code(trial: Trial, errors: dict, fine: list[int], left: list[int]) -> list[str]:
    everybody_left = fine == left and all(
        trial.said(rank, "left") for rank in range(RANKS) if trial.fault.kind != "kill"
    )
    if errors and trial.code == 0:
        return ["exit code 0 though ranks failed"]
    if trial.code == 0 and not everybody_left:
        return ["exit code 0 though not all ranks ended well"]
    if trial.code not in (0, 1, KILLED_CODE, SIGTERM_CODE):
        return [f"exit code {trial.code}"]
    if everybody_left and trial.fault.kind not in OF_RANKS and trial.code != 0:
        return [f"exit code {trial.code} though all ranks ended well"]
    return []


def names_the_guilty(trial: Trial, rank: int, text: str) -> bool:
    """Of a rank its number comes first; of a link both ends are named, or who is beyond it."""
    fault = trial.fault
    if fault.kind in OF_RANKS:
        if lost := re.search(r"lost rank (\d+)", text):
            return int(lost[1]) == fault.victim
        return fault.victim in _ranks_in(text)  # beside those who waited for it
    hosts = {fault.host_of(each) for each in [rank, *_ranks_in(text)]}
    hosts |= {int(last) - 1 for last in re.findall(r"10\.77\.0\.(\d)", text)}
    return len(hosts) > 1


def _ranks_in(text: str) -> list[int]:
    lists = re.findall(r"ranks? ((?:\d+(?:, )?)+)", text)
    return [int(number) for number in re.findall(r"\d+", " ".join(lists))]


def horarun_names_the_guilty(trial: Trial) -> bool:
    lines = [line for line in trial.output.splitlines() if line.startswith("horarun: ")]
    guilty = f"rank {trial.fault.victim}\\b" if trial.fault.kind in OF_RANKS else "rank \\d|host "
    return any(re.search(guilty, line) for line in lines)
