"""What the control plane costs jobs of 10 to 100,000 ranks, as a table and a picture.

Runs hora_scaling for every size: up to --simulate ranks with a negotiator for each, beyond that by
the model of the same network without them (tests/simulation/scaling_test.cc: where both can run,
they agree exactly). Bytes beyond are those of the largest simulation, in proportion to the ranks
that one rank serves.

    python benchmarks/scaling.py --build build/release --json rows.json --svg docs/scaling.svg
    python benchmarks/scaling.py --rows rows.json --svg docs/scaling.svg      draws it again
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import subprocess
import sys

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
SHAPES = {"tree": (), "star": ("--star",)}
COLORS = {"tree": "#2a7f9e", "star": "#d1495b"}
NAMES = {"tree": "tree, 8 ranks a host, arity 8", "star": "star, as Horovod's coordinator"}


def measure(build: pathlib.Path, largest: int, tensors: int) -> list[dict]:
    """A row for every size and shape."""
    rows = []
    for shape, flags in SHAPES.items():
        last = {}
        for ranks in SIZES:
            model = ranks > largest
            command = [build / "tests" / "simulation" / "hora_scaling", str(ranks)]
            command += ["--tensors", str(tensors), *flags, *(["--model"] if model else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"shape": shape, **json.loads(done.stdout)}
            if model:
                served = (ranks - 1) / (last["ranks"] - 1) if shape == "star" else 1
                for step in ("steady", "one_by_one"):
                    row[step]["buckets"] = last[step]["buckets"]
                    row[step]["bytes_most"] = round(last[step]["bytes_most"] * served)
                    row[step]["bytes_mean"] = last[step]["bytes_mean"]
            else:
                last = row
            rows.append(row)
            print(row_text(row), flush=True)
    return rows


def row_text(row: dict) -> str:
    """A line of the table."""
    steady, loose = row["steady"], row["one_by_one"]
    return (
        f"| {row['shape']} | {row['ranks']:,} | {'simulated' if row['simulated'] else 'model'} "
        f"| {steady['frames_in']:,} + {steady['frames_out']:,} "
        f"| {loose['frames_in']:,} + {loose['frames_out']:,} "
        f"| {steady['bytes_mean']:.0f} / {steady['bytes_most']:,} "
        f"| {steady['agreed_us'] / 1000:,.3f} | {loose['agreed_us'] / 1000:,.3f} |"
    )


class Panel:
    """One diagram: both axes logarithmic."""

    WIDTH, HEIGHT, TOP = 250, 220, 62

    def __init__(self, left: float, title: str, most: int):
        self.left, self.most, self.parts = left, most, []
        self.text(left, self.TOP - 14, title, weight="bold")
        for power in range(most + 1):
            y = self.y(10**power)
            self.line((left, y), (left + self.WIDTH, y), "#e4e7ea")
            self.text(left - 6, y + 4, short(10**power), anchor="end")
        for power in range(1, 6):
            x = self.x(10**power)
            self.line((x, self.TOP), (x, self.TOP + self.HEIGHT), "#e4e7ea")
            self.text(x, self.TOP + self.HEIGHT + 18, short(10**power), anchor="middle")
        self.text(left + self.WIDTH / 2, self.TOP + self.HEIGHT + 36, "ranks", anchor="middle")

    def x(self, ranks: float) -> float:
        return self.left + (math.log10(ranks) - 1) / 4 * self.WIDTH

    def y(self, value: float) -> float:
        return self.TOP + self.HEIGHT * (1 - math.log10(max(value, 1)) / self.most)

    def text(self, x: float, y: float, words: str, anchor="start", weight="normal") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{words}</text>"
        )

    def line(self, a: tuple, b: tuple, color: str, width=1.0, dash="") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" '
            f'stroke="{color}" stroke-width="{width}"{dashed}/>'
        )

    def draw(self, points: list[tuple[int, float, bool]], color: str) -> None:
        """(ranks, value, simulated?); what is modelled is dashed and hollow."""
        for (n, v, _), (m, w, simulated) in zip(points, points[1:], strict=False):
            self.line(
                (self.x(n), self.y(v)), (self.x(m), self.y(w)), color, 2, "" if simulated else "4 3"
            )
        for n, v, simulated in points:
            self.parts.append(
                f'<circle cx="{self.x(n):.1f}" cy="{self.y(v):.1f}" r="3.5" stroke="{color}" '
                f'stroke-width="1.5" fill="{color if simulated else "white"}">'
                f"<title>{n:,} ranks: {v:,.0f}</title></circle>"
            )


def short(value: int) -> str:
    """1, 10, 1k, 1M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value // size}{unit}"
    return str(value)


def picture(rows: list[dict]) -> str:
    """Frames and bytes of the busiest rank and the time to agree, for a step whose tensors come
    one by one."""
    panels = []
    for index, (title, most, value) in enumerate(
        (
            ("frames that the busiest rank handles", 7, lambda s: s["frames_in"] + s["frames_out"]),
            ("bytes that the busiest rank sends", 8, lambda s: s["bytes_most"]),
            ("µs of network and engines until agreed", 8, lambda s: s["agreed_us"]),
        )
    ):
        panel = Panel(50 + index * 315, title, most)
        for shape in SHAPES:
            points = [
                (row["ranks"], value(row["one_by_one"]), row["simulated"])
                for row in rows
                if row["shape"] == shape
            ]
            panel.draw(points, COLORS[shape])
        panels.append(panel)
    legend = Panel.__new__(Panel)
    legend.parts = []
    for index, shape in enumerate(SHAPES):
        x = 50 + index * 240
        legend.line((x, 22), (x + 24, 22), COLORS[shape], 2)
        legend.text(x + 30, 26, NAMES[shape])
    legend.text(555, 26, "filled: simulated, hollow: modelled; 1,000 tensors in 10 buckets")
    lines = [part for each in (*panels, legend) for part in each.parts]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 330" width="960" height="330" '
        'font-family="sans-serif" font-size="12">\n<rect width="960" height="330" fill="white"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/release"))
    parser.add_argument("--simulate", type=int, default=10_000, help="the most ranks (1 MB each)")
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--rows", type=pathlib.Path, help="measured before: only draw")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows here")
    parser.add_argument("--svg", type=pathlib.Path, help="draw the picture here")
    options = parser.parse_args()
    if options.rows:
        rows = json.loads(options.rows.read_text())
        print("\n".join(row_text(row) for row in rows))
    else:
        rows = measure(options.build, options.simulate, options.tensors)
    if options.json:
        options.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    if options.svg:
        options.svg.write_text(picture(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
