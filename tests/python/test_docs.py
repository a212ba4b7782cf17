"""Goal: pages for newcomers say what is there.

Method: names, flags and settings of the pages against the package, `horarun --help` and the table
of settings; error texts of docs/footguns.md against the sources; programs are run.
"""

import pathlib
import re
import subprocess

import pytest
import torch
from support import HORARUN, lines_of, needs_horarun, run_program

import hora
import hora.torch as hvd

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = ("from_horovod", "from_ddp", "footguns")
ROW = re.compile(r"^\| `(\w+)` \| (same|different|not yet) \|", re.M)
FLAG = re.compile(r"--?[a-z][a-z-]+")


def page(name):
    return (ROOT / f"docs/{name}.md").read_text()


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def after(diff):
    """The program that a diff leads to."""
    kept = [line for line in diff.splitlines() if not line.startswith("-")]
    return "".join(line[1:] + "\n" for line in kept)


def test_the_table_of_horovods_names_tells_what_the_package_has():
    text = page("from_horovod")
    rows = dict(ROW.findall(text))
    assert len(rows) > 60
    for name, here in rows.items():
        there = hasattr(hvd, name)
        advice = f"hora.torch has {name}: {there}; correct its row in docs/from_horovod.md"
        assert there == (here != "not yet"), advice
    for name in hvd.__all__:
        assert not name.islower() or f"`{name}`" in text, f"docs/from_horovod.md lacks {name}"


@needs_horarun
def test_the_table_of_flags_tells_what_horarun_takes():
    shown = subprocess.run([HORARUN, "--help"], capture_output=True, text=True, check=True).stdout
    taken = set(FLAG.findall(shown)) | {"-np"}
    table = page("from_horovod").split("| horovodrun |")[1].split("New flags:")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 15
    for theirs, here in rows:
        if "not yet" in here or "none" in here:
            for flag in FLAG.findall(theirs):
                advice = f"horarun takes {flag}; correct its row in docs/from_horovod.md"
                assert flag not in taken - {"-i", "-p", "--hosts"}, advice
        else:
            assert set(FLAG.findall(here)) <= taken, here


@pytest.mark.parametrize("name", PAGES)
def test_names_and_settings_of_a_page_exist(name):
    text = page(name)
    for word in set(re.findall(r"\bhvd\.(\w+)", text)):
        assert hasattr(hvd, word), f"docs/{name}.md: hvd.{word}"
    for word in set(re.findall(r"\bhora\.([A-Z]\w+)", text)):
        assert hasattr(hora, word), f"docs/{name}.md: hora.{word}"
    settings = (ROOT / "docs/environment.md").read_text()
    for word in set(re.findall(r"\bHORA_\w+", text)) - {"HORA_"}:
        assert f"`{word}`" in settings, f"docs/{name}.md: {word}"


@needs_horarun
def test_the_programs_of_the_page_for_ddp_run(tmp_path):
    """The first trains, the second accumulates, on what the first one has made."""
    whole, accumulation = map(after, blocks(page("from_ddp"), "diff"))
    start = (
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "import torch\n"
        "data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))\n"
        "network = lambda: torch.nn.Linear(4, 1)\n"
        "loss_of = torch.nn.functional.mse_loss\n"
        "epochs = 2\n"
    )
    assert "hvd.shutdown()" in whole
    whole = whole.replace("hvd.shutdown()", "print('trained', f'{loss:.6f}')")
    between = "plain = torch.optim.SGD(model.parameters(), lr=0.1)\ndel optimizer\n"
    end = "print('accumulated', float(sum(p.sum() for p in model.parameters())))\n"
    job = run_program(2, start + whole + between + accumulation + end, timeout=120, check=True)
    for word in ("trained", "accumulated"):
        shown = {line[4:] for line in lines_of(job) if word in line}
        assert len(shown) == 1, job.stdout  # the same on both ranks
    assert torch.load(tmp_path / "checkpoint.pt").keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    "words",
    [
        "Hora has not been initialized; use hora.init().",
        "hora.init() was reached while a child process (a DataLoader's worker, for example)",
        "ask rank() and size() in the rank's own process",
        "pass model.state_dict()",
        "DistributedOptimizer: this optimizer is wrapped already",
        "belongs to another DistributedOptimizer by now",
        "DistributedOptimizer: expected a torch.optim.Optimizer, got",
        "was called on the optimizer that DistributedOptimizer wraps, while its gradients are on",
        "Gradients were computed more than backward_passes_per_step times before call to step().",
        "was changed after loss.backward(), while it was on its way to the other ranks.",
        "optimizer.zero_grad() was called after loss.backward() but before optimizer.step()",
        "optimizer.step() called without optimizer.skip_synchronize() context",
        "expected a torch.Tensor, got",
        "could not pickle its object",
    ],
)
def test_an_error_that_the_page_of_footguns_names_has_those_words(words):
    sources = "".join(path.read_text() for path in (ROOT / "frameworks/hora").rglob("*.py"))
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", sources)
    assert words in " ".join(page("footguns").split())
    assert words in joined
