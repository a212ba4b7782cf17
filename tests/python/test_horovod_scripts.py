"""Goal: a program written to Horovod's documented interface runs with only its import changed.

Method: `horovod_digits.py` is such a program. Its text, with that one line changed, trains on two
and three ranks with the options that Horovod's users know, and must learn.
"""

import pathlib
import re

import pytest
from support import needs_horarun, run_ranks

SCRIPT = pathlib.Path(__file__).with_name("horovod_digits.py")
OPTIONS = {
    "as it is": (2, []),
    "half, predivided, groups": (
        2,
        ["--fp16-allreduce", "--gradient-predivide-factor=2", "--num-groups=2"],
    ),
    "several backward passes, clipped": (2, ["--batches-per-allreduce=2", "--clip"]),
    "adasum": (3, ["--use-adasum"]),
}


@needs_horarun
@pytest.mark.parametrize("ranks, options", OPTIONS.values(), ids=OPTIONS)
def test_digits_are_learned(tmp_path, ranks, options):
    text, changed = re.subn(r"\bhorovod\.torch as hvd", "hora.torch as hvd", SCRIPT.read_text())
    assert changed == 1
    script = tmp_path / "train.py"
    script.write_text(text)
    job = run_ranks(ranks, script, *options, timeout=120, check=True)
    told = re.search(r"ranks (.*) same (.*) last (.*) (.*)\n", job.stdout)
    assert told, job.stdout
    assert told[1] == str(list(range(ranks))) and told[2] == "True", job.stdout
    assert float(told[4]) > 0.85, job.stdout
