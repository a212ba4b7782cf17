"""`hora bench compressor` and `hora new compressor`, as a researcher types them."""

import importlib
import os
import pathlib
import re
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
        ("auto", "'auto' has no codec"),
        ("missing.py:Zeros", "there is no missing.py"),
        ("hora.testing:Zeros", "hora.testing has no class Zeros"),
        ("hora.testing:Report", "no subclass of hora.compression.Compressor"),
    ],
)
def test_what_cannot_be_measured_is_said(name, said):
    done = hora("bench", "compressor", name)
    assert done.returncode == 2 and said in done.stderr


@needs_horarun
def test_a_new_compressor_in_python_passes_as_it_is(tmp_path):
    done = hora("new", "compressor", "tiny_bytes", "--python", folder=tmp_path)
    assert done.returncode == 0 and "pytest test_tiny_bytes.py" in done.stdout, done.stderr
    words = [sys.executable, "-m", "pytest", "-q", "test_tiny_bytes.py"]
    tested = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert tested.returncode == 0 and "2 passed" in tested.stdout, tested.stdout
    again = hora("new", "compressor", "tiny_bytes", "--python", folder=tmp_path)
    assert again.returncode == 2 and "tiny_bytes.py exists" in again.stderr


@needs_horarun
def test_a_new_compressor_in_cpp_compiles(tmp_path):
    source = pathlib.Path(__file__).parents[2]
    refused = hora("new", "compressor", "fresh", folder=tmp_path)
    assert refused.returncode == 2 and "go to a checkout" in refused.stderr
    for folder in ("compressors", "tests/compressors"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "compressors/stage.h").write_text("")
    assert hora("new", "compressor", "fresh", folder=tmp_path).returncode == 0
    (tmp_path / "compressors/stage.h").unlink()
    compiler = [
        *("c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"),
        f"-I{source}",
    ]
    for path in ("compressors/fresh.cc", "tests/compressors/fresh_test.cc"):
        words = [*compiler, f"-I{source}/include", tmp_path / path]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_the_compressor_of_the_page_keeps_the_laws_once_it_is_mended(tmp_path, monkeypatch):
    from hora.testing import check_compressor

    page = (pathlib.Path(__file__).parents[2] / "docs/new_compressor.md").read_text()
    first, mended = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "codebook_first.py").write_text(first)
    (tmp_path / "codebook_mended.py").write_text(
        first.replace(mended.splitlines(keepends=True)[0], mended)
    )
    codebook = importlib.import_module("codebook_first").Codebook
    with pytest.raises(AssertionError, match="contractive means contractive: 20011 elements"):
        check_compressor(codebook)
    check_compressor(register_as(importlib.import_module("codebook_mended").Codebook, "mended"))


def register_as(kind, name):
    """A chain that has the class under another name."""
    from hora import compression

    return compression.register(kind, name)
