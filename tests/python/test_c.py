"""Goal: a C program, which knows only hora.h and libhora, works as one rank of a job; what its
compression remembers outlives it.

Method: the library is installed into a folder, which is then moved; programs are compiled as C99
with warnings as errors, found by pkg-config, and run under the real horarun.
"""

import os
import pathlib
import re
import shlex
import subprocess

import pytest
from support import lines_of, needs_horarun, run_job

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("HORA_BUILD") or ROOT / "build/dev")
STRICT = "-std=c99 -Wall -Wextra -Werror -pedantic -O1 -lm".split()

pytestmark = pytest.mark.skipif(
    not (BUILD / "lib/libhora.so").exists(), reason="libhora is not built, or HORA_BUILD not set"
)


def output_of(*words, **options):
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, f"{shlex.join(words)}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """Where header, library and hora.pc are installed."""
    folder = tmp_path_factory.mktemp("installed")
    words = ("--component", "development", "--prefix", folder / "before")
    output_of("cmake", "--install", BUILD, *words)
    return (folder / "before").rename(folder / "after")


@pytest.fixture(scope="session")
def build(prefix, tmp_path_factory):
    """Compiles a source as the pages say; gives the program."""
    (found,) = prefix.rglob("hora.pc")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(found.parent)}

    def compiled(source):
        flags = output_of("pkg-config", "--cflags", "--libs", "hora", env=environment).split()
        program = tmp_path_factory.mktemp("built") / source.stem
        path = f"-Wl,-rpath,{found.parent.parent}"
        output_of("cc", source, "-o", program, *flags, *STRICT, path)
        return program

    return compiled


@pytest.fixture(scope="session")
def program(build):
    return build(ROOT / "tests/python/c/program.c")


def on_ranks(size, *words):
    job = run_job("-n", size, *words)
    assert job.returncode == 0, f"exit code {job.returncode}; printed:\n{job.stdout}"
    return lines_of(job)


def steps(lines, first):
    """The digest of each step's result, from `first` on, which must be the same on all ranks."""
    found = {re.sub(r"^\[\d+\] ", "", line) for line in lines if "] step " in line}
    numbers = sorted(int(line.split()[1]) for line in found)
    assert len(set(numbers)) == len(numbers), found
    return sorted(line for line in found if int(line.split()[1]) >= first)


def test_the_library_shows_the_functions_of_its_header_and_nothing_else(prefix):
    (library,) = prefix.rglob("libhora.so")
    shown = output_of("nm", "-D", "--defined-only", "--format=posix", library)
    declared = re.findall(
        r"^HORA_API [^(]*?(hora_\w+)\(", (prefix / "include/hora/hora.h").read_text(), re.M
    )
    assert len(declared) > 15
    assert sorted(line.split()[0] for line in shown.splitlines()) == sorted(declared)


def test_wrong_arguments_are_refused_in_words(program):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HORA")}
    assert "done" in output_of(program, "mistakes", env=clean)


def test_a_start_that_fails_says_why_and_gives_no_engine(program):
    wrong = {**os.environ, "HORA_LANES": "many"}
    done = subprocess.run([program, "mistakes"], env=wrong, capture_output=True, text=True)
    assert done.returncode == 1
    assert "HORA_LANES=many" in done.stderr


@needs_horarun
@pytest.mark.parametrize("size", [2, 3])
def test_every_operation_gives_exact_results(program, size):
    lines = on_ranks(size, program, "collectives")
    assert {f"[{rank}] done" for rank in range(size)} <= set(lines)


@needs_horarun
def test_a_disagreement_is_told_to_all_ranks_and_the_job_goes_on(program):
    lines = on_ranks(2, program, "disagree")
    told = [line[4:] for line in lines if "'w'" in line]
    assert len(told) == 2 and told[0] == told[1]
    assert "[3]" in told[0] and "[4]" in told[0]
    assert {"[0] done", "[1] done"} <= set(lines)


@needs_horarun
def test_who_loads_what_was_saved_goes_on_with_the_same_bits(program, tmp_path):
    whole = steps(on_ranks(2, program, "steps", 0, 10, "save", tmp_path), 6)
    everything = steps(on_ranks(2, program, "steps", 6, 10, "load", tmp_path), 6)
    own = steps(on_ranks(2, program, "steps", 6, 10, "own", tmp_path), 6)
    anew = steps(on_ranks(2, program, "steps", 6, 10), 6)
    assert len(whole) == 4
    assert everything == own == whole
    assert not set(anew) & set(whole)  # what was remembered counts


@needs_horarun
def test_what_two_ranks_have_saved_can_be_loaded_by_three(program, tmp_path):
    on_ranks(2, program, "steps", 0, 6, "save", tmp_path)
    taken = steps(on_ranks(3, program, "steps", 6, 8, "load", tmp_path), 6)
    anew = steps(on_ranks(3, program, "steps", 6, 8), 6)
    assert len(taken) == 2
    assert not set(anew) & set(taken)


@needs_horarun
def test_a_c_program_in_an_elastic_job_is_told_that_it_cannot_take_part(program):
    job = run_job("-n", 2, "--min-np", 1, program, "collectives")
    assert job.returncode != 0
    assert "only Python programs can take part yet" in job.stdout


@needs_horarun
def test_the_example_says_that_what_one_bit_loses_comes_later(build):
    lines = on_ranks(2, build(ROOT / "examples/allreduce.c"))
    off = [float(line.split()[5]) for line in lines if "off by" in line]
    assert len(off) == 2
    assert 0 < off[1] < off[0] / 4


@needs_horarun
def test_the_program_of_the_page_runs_and_goes_on_where_it_was(build, tmp_path):
    (text,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs/c.md").read_text(), re.M | re.S)
    (tmp_path / "page.c").write_text(text)
    program = build(tmp_path / "page.c")
    for _ in range(2):
        assert "[0] saved" in on_ranks(2, program, tmp_path)
