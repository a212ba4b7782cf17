"""Goal: the character transformer reads its text, learns, and needs five lines of Hora.

Method: a small text of our own, in each form that it may come in, and the real program.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys

from support import needs_horarun, run_ranks

PROGRAM = pathlib.Path(__file__).resolve().parent.parent.parent / "examples/torch_charlm.py"
SMALL = "--length 16 --width 32 --layers 1 --batch-size 8 --steps 30 --rate 0.01".split()
VERSES = [
    f"{book}{chapter}:{verse} In the beginning was verse {verse} of chapter {chapter}.\n"
    for book in ("Gen", "Ruth", "Jonah", "1Kings")
    for chapter in range(1, 5)
    for verse in range(1, 8)
]


def program(*words, path=None):
    command = [sys.executable, str(PROGRAM), *SMALL, *map(str, words)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HORA")}
    clean["PATH"] = path or clean["PATH"]
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)


def compressed(text):
    """What compress(1) makes of a short text, without repetitions; its magic is left out."""
    assert len(text) < 250  # codes stay 9 bits long
    bits = sum(letter << 9 * i for i, letter in enumerate(text.encode()))
    return bits.to_bytes(-(-9 * len(text) // 8), "little")


def test_five_lines_are_hora():
    lines = PROGRAM.read_text().splitlines()
    marked = [line for line in lines if line.endswith("  # hora")]
    assert len(marked) == 5
    assert sum("hora." in line for line in lines if line.startswith("    ")) == 4


@needs_horarun
def test_one_rank_and_two_learn_the_same_of_a_text_split_by_book(tmp_path):
    (tmp_path / "text").write_text("".join(VERSES))
    alone = program("--text", tmp_path / "text", "--json", tmp_path / "1")
    assert alone.returncode == 0, alone.stderr
    words = ["--text", tmp_path / "text", "--json", tmp_path / "2"]
    job = run_ranks(2, PROGRAM, *SMALL, *words, timeout=120, check=True)
    assert "[0]   step    30" in job.stdout
    assert "[1]" not in job.stdout  # one rank speaks
    one, two = (json.loads((tmp_path / name).read_text())["bits"] for name in "12")
    assert one.keys() == two.keys() == {"Ruth", "Jonah"}
    for book in one:
        assert one[book] < 4.5  # it began with log2 of 30 letters
        assert abs(one[book] - two[book]) < 0.01  # sums of halves round differently


def test_debians_package_is_read_where_it_is_installed(tmp_path):
    parts = ["".join(VERSES[i : i + 4]) for i in range(0, len(VERSES), 4)]
    packed, starts, at = [compressed(part) for part in parts], [], 92 + 4 * len(parts)
    for part in packed:
        starts.append(at)
        at += len(part)
    head = b"EC02".ljust(88, b"\0") + struct.pack(f">{len(parts) + 1}I", len(parts), *starts)
    (tmp_path / "bible.data").write_bytes(head + b"".join(packed))
    (tmp_path / "dpkg").write_text(f"#!/bin/sh\necho {tmp_path}/bible.data\n")
    (tmp_path / "dpkg").chmod(0o755)
    job = program("--json", tmp_path / "1", path=f"{tmp_path}:{os.environ['PATH']}")
    assert job.returncode == 0, job.stderr
    assert json.loads((tmp_path / "1").read_text())["bits"].keys() == {"Ruth", "Jonah"}


def test_without_a_text_the_program_says_what_to_install(tmp_path):
    job = program(path=str(tmp_path))
    assert job.returncode == 1
    assert "apt-get install bible-kjv-text" in job.stderr
    assert "Traceback" not in job.stderr
