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
import pathlib
import subprocess
import sys

from chart import Axis, Panel, Sheet, figure

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


def panel_at(left: float, title: str, most: int) -> Panel:
    """Ranks across, up to 10**`most` of something upwards."""
    return Panel((left, 62), (250, 220), title, Axis("ranks", 10, 1e5), Axis("", 1, 10.0**most))


def draw(panel: Panel, points: list[tuple[int, float, bool]], color: str) -> None:
    """(ranks, value, simulated?); what is modelled is dashed and hollow."""
    for (n, v, _), (m, w, simulated) in zip(points, points[1:], strict=False):
        panel.line(panel.at(n, v), panel.at(m, w), color, 2, "" if simulated else "4 3")
    for n, v, simulated in points:
        panel.mark(panel.at(n, v), color, f"{n:,} ranks: {v:,.0f}", simulated)


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
        panel = panel_at(50 + index * 315, title, most)
        for shape in SHAPES:
            points = [
                (row["ranks"], value(row["one_by_one"]), row["simulated"])
                for row in rows
                if row["shape"] == shape
            ]
            draw(panel, points, COLORS[shape])
        panels.append(panel)
    legend = Sheet()
    for index, shape in enumerate(SHAPES):
        x = 50 + index * 240
        legend.line((x, 22), (x + 24, 22), COLORS[shape], 2)
        legend.text(x + 30, 26, NAMES[shape])
    legend.text(950, 26, "filled: simulated, hollow: modelled; 1,000 tensors in 10 buckets", "end")
    return figure((960, 330), [*panels, legend])


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
