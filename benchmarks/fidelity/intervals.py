"""Means of paired differences, and how well they are known."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Student's t: 97.5 % of the distribution lies below, for so many degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160)
_T += (2.145, 2.131, 2.120, 2.110, 2.101, 2.093)

FEWEST = 5


class Interval(NamedTuple):
    """A mean and its 95 % interval, `mean - half` to `mean + half`; of one value all that is known
    is that value, and `half` is infinite."""

    mean: float
    half: float
    count: int = FEWEST  #: of the values

    def verdict(self, bound: float) -> str:
        """Where the truth lies, as far as the interval tells: within -bound to bound, beyond one of
        the two, or only not beyond one. Of few values nothing: two that happen to agree would have
        an interval of no width."""
        if self.count < FEWEST:
            return "too few seeds"
        low, high = self.mean - self.half, self.mean + self.half
        if -bound <= low and high <= bound:
            return "inside"
        if high < -bound or low > bound:
            return "below" if high < -bound else "above"
        return "not below" if -bound <= low else "not above" if high <= bound else "undecided"


def interval(values: Sequence[float]) -> Interval:
    """Of differences that were drawn independently."""
    count = len(values)
    if count < 2:
        return Interval(values[0], float("inf"), 1)
    t = _T[min(count - 1, len(_T)) - 1]
    return Interval(statistics.mean(values), t * statistics.stdev(values) / count**0.5, count)
