"""Small diagrams as SVG text, without a library: panels with axes, lines and marks.

A panel collects its parts; `figure` puts panels into one file. Coordinates are pixels, colors what
SVG knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

GRID = "#e4e7ea"
# Told apart by who sees few colors, too: after them the dashes begin.
COLORS = ("#2a7f9e", "#d1495b", "#8d6a9f", "#3a7d44", "#e08e45", "#4a5759", "#b5838d", "#6b8e23")


class Sheet:
    """Text and lines."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, anchor: str = "start", weight: str = "normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>"
        )

    def line(self, a: tuple, b: tuple, color: str, width: float = 1.0, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" '
            f'stroke="{color}" stroke-width="{width}"{dashed}/>'
        )

    def mark(self, at: tuple, color: str, words: str, filled: bool = True) -> None:
        """A dot that says something when the mouse rests on it."""
        self.parts.append(
            f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5" stroke="{color}" '
            f'stroke-width="1.5" fill="{color if filled else "white"}">'
            f"<title>{escape(words)}</title></circle>"
        )

    def path(self, points: Sequence[tuple], color: str, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="1.8"{dashed}/>'
        )


class Axis:
    """A range, on a logarithmic scale or not, and what its ticks say."""

    def __init__(self, title: str, low: float, high: float, log: bool = True) -> None:
        self.title, self.low, self.high, self.log = title, low, high, log

    @classmethod
    def around(cls, title: str, values: Iterable[float], log: bool = True) -> Axis:
        """The least round range that has all values; of a logarithmic one, of those above 0."""
        known = [value for value in values if value > 0 or not log]
        low, high = min(known), max(known)
        if log:
            return cls(title, low / 1.15, high * 1.15)
        step = _step(high - low or 1)
        return cls(title, math.floor(low / step) * step, math.ceil(high / step) * step, log)

    def share(self, value: float) -> float:
        """0 at the lower end, 1 at the upper."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        value = max(value, self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        if not self.log:
            step = _step(self.high - self.low)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            return [number * step for number in range(first, last + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        # One decade has few powers of ten in it.
        factors = (1, 2, 5) if self.high / self.low < 100 else (1,)
        found = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in found if self.low <= value <= self.high]


def _step(span: float) -> float:
    """A round number that goes four to ten times into `span`."""
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1) if span / (power * part) <= 8)


def short(value: float) -> str:
    """1, 10, 1k, 1M; 0.01."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"


class Panel(Sheet):
    """A diagram with two axes."""

    def __init__(
        self, place: tuple[float, float], size: tuple[float, float], title: str, x: Axis, y: Axis
    ) -> None:
        super().__init__()
        (self.left, self.top), (self.width, self.height) = place, size
        self.x_axis, self.y_axis = x, y
        self.text(self.left, self.top - 14, title, weight="bold")
        for value in y.ticks():
            self.line(self.at(x.low, value), self.at(x.high, value), GRID)
            self.text(self.left - 6, self.at(x.low, value)[1] + 4, short(value), anchor="end")
        bottom = self.top + self.height
        for value in x.ticks():
            self.line(self.at(value, y.high), self.at(value, y.low), GRID)
            self.text(self.at(value, y.low)[0], bottom + 18, short(value), anchor="middle")
        self.text(self.left + self.width / 2, bottom + 36, x.title, anchor="middle")
        if y.title:
            self.text(self.left - 6, self.top - 1, y.title, anchor="end")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; beyond an axis it lies at its end."""
        across, up = (
            min(max(share, 0), 1) for share in (self.x_axis.share(x), self.y_axis.share(y))
        )
        return self.left + self.width * across, self.top + self.height * (1 - up)

    def curve(self, points: Sequence[tuple[float, float]], color: str, dash: str = "") -> None:
        self.path([self.at(*point) for point in points], color, dash)


class Legend(Sheet):
    """Names of curves with their colors, in rows no wider than `width`; `height` is theirs."""

    def __init__(self, place: tuple[float, float], names: Sequence[str], width: float) -> None:
        super().__init__()
        each = 44 + 7.2 * max(map(len, names), default=0)
        columns = max(1, int(width / each))
        self.height = 18 * -(-len(names) // columns)
        for index, name in enumerate(names):
            x = place[0] + index % columns * each
            y = place[1] + index // columns * 18
            color, dash = style(index)
            self.path([(x, y), (x + 24, y)], color, dash)
            self.text(x + 30, y + 4, name)


def style(index: int) -> tuple[str, str]:
    """Color and dashes of the curve with this number."""
    dashes = ("", "5 3", "2 2")
    return COLORS[index % len(COLORS)], dashes[index // len(COLORS) % len(dashes)]


def figure(size: tuple[int, int], sheets: Iterable[Sheet]) -> str:
    """The whole file."""
    width, height = size
    parts = [part for sheet in sheets for part in sheet.parts]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
