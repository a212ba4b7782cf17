"""`hora bench compressor` and `hora new compressor`, as a researcher types them."""

import os
import pathlib
import subprocess
import sys

import pytest
from support import HORARUN, needs_horarun

COMPRESSOR = """
import numpy as np
from hora.compression import Compressor

class Zeros(Compressor):
    "Sends nothing at all."
    def payload_bytes(self, count): return 1
    def encode(self, values, payload, step): pass
    def decode(self, payload, values, step): pass
"""


def hora(*words, folder="."):
    """Runs `hora *words` with this interpreter's python3."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [pathlib.Path(HORARUN).with_name("hora"), *words],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_horarun
def test_a_class_in_a_file_is_measured_beside_what_there_is(tmp_path):
    (tmp_path / "mine.py").write_text(COMPRESSOR)
    done = hora("bench", "compressor", "mine.py:Zeros", "--elements", "50000", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table, curves, links = done.stdout.split("\n\n")[1:]
    rows = {line.split("  ")[0]: line.split() for line in table.splitlines()[1:]}
    assert set(rows) == {"chain", "float32", "bf16", "topk 1%", "onebit", "mine.py:Zeros"}
    assert rows["float32"][1:3] == ["200000", "1.0"]
    # The frame and a byte; nothing comes back, and all of it is owed.
    assert rows["mine.py:Zeros"][1] == "9" and rows["mine.py:Zeros"][5:] == ["1.000", "4.0"]
    last = curves.splitlines()[-2].split()
    assert last[0] == "mine.py:Zeros" and set(last[1:]) == {"1"}  # no step moves anything
    assert "mine.py:Zeros does not reach float32's loss" in curves
    assert [line.split()[0] for line in links.splitlines()[2:]] == ["100", "1", "10", "100"]


@needs_horarun
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("onebitt", "did you mean 'onebit'"),
        ("none", "'none' is float32"),
        ("missing.py:Zeros", "there is no missing.py"),
        ("hora.testing:Zeros", "hora.testing has no class Zeros"),
        ("hora.testing:Report", "no subclass of hora.compression.Compressor"),
    ],
)
def test_what_cannot_be_measured_is_said(name, said):
    done = hora("bench", "compressor", name)
    assert done.returncode == 2 and said in done.stderr
