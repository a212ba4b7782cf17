"""Goal: every usual mistake is told by name: which rank, which tensor, what it did instead.

Method: each program of `mistakes/` makes one, on two or three ranks that stop waiting soon. Its
PRINTED must be found in what the job printed, and EXPLAINED in what `hora explain` says.
"""

import ast
import pathlib
import re
import subprocess

import pytest
from support import HORARUN, needs_horarun, run_program, run_ranks

pytestmark = needs_horarun
FOLDER = pathlib.Path(__file__).parent / "mistakes"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "tensors")
# Long enough for a busy machine to submit what is no mistake, short enough to wait for.
IMPATIENT = {
    "HORA_STALL_WARNING": "300 ms",
    "HORA_STALL_ABORT": "1200 ms",
    "HORA_FAILURE_TIMEOUT": "5 s",
}


def constants_of(program):
    """RANKS, PRINTED and EXPLAINED, without running the program."""
    values = {"RANKS": 2}
    for statement in ast.parse((FOLDER / f"{program}.py").read_text()).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "").isupper():
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values["RANKS"], values["PRINTED"], values["EXPLAINED"]


def explain(folder):
    words = [pathlib.Path(HORARUN).with_name("hora"), "explain", folder]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_mistake_is_told_by_name(program, tmp_path):
    ranks, printed, explained = constants_of(program)
    environment = {**IMPATIENT, "HORA_FLIGHT_DIR": str(tmp_path)}
    job = run_ranks(ranks, FOLDER / f"{program}.py", environment=environment)
    assert job.returncode != 0, f"nobody noticed; printed:\n{job.stdout}"
    for parts, text in ((printed, job.stdout), (explained, explain(tmp_path))):
        for part in parts:
            assert re.search(part, text, re.DOTALL), f"no {part!r} in:\n{text}"


def test_a_job_without_a_mistake_is_told_to_be_well(tmp_path):
    program = "import hora; hora.init(); hora.barrier()"
    job = run_program(2, program, environment={"HORA_FLIGHT_DIR": str(tmp_path)})
    assert job.returncode == 0, job.stdout
    assert "Records of 2 of 2 ranks" in explain(tmp_path)
    assert "Nothing is wrong in these records" in explain(tmp_path)
