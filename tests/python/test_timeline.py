"""Timelines and metrics of real ranks.

Goal: a file can be read at any instant and has every tensor's phases in order, timelines start and
stop at run time and keep their bound, and metrics count what was done. Method: two ranks under
horarun reduce known tensors; what they wrote is read back, also while they write.
"""

import json
import os
import pathlib
import subprocess
import tempfile

import pytest
from support import HORARUN, needs_horarun, on_ranks, run_program

HORA = str(pathlib.Path(HORARUN or "horarun").with_name("hora"))


def events_of(text):
    """The events of a file that may still be written: whole lines, then perhaps no bracket."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(text[: text.rindex("\n")].removesuffix("\n]").rstrip(",") + "]")


def read_at_once(path):
    """By one call: a second one would put what has been written since behind the old end."""
    with path.open("rb", buffering=0) as file:
        return file.read(1 << 24).decode()


def lives_of(events):
    """(tensor's name, event) of every request."""
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [(names[e["tid"]], e) for e in events if e["ph"] == "X" and e["tid"] >= 100]


def check_order(event):
    args = event["args"]
    times = [args[key] for key in ("taken", "agreed", "begun", "moved") if key in args]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= event["dur"]


@on_ranks(2)
def test_a_timeline_can_be_read_at_any_instant_and_has_every_tensor():
    import torch

    import hora.torch as hvd

    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp()))
    path = folder / "t.json"
    mine = path if hvd.rank() == 0 else folder / "t.1.json"
    hvd.start_timeline(path)
    for step in range(30):
        handles = [
            hvd.allreduce_async(torch.ones(100 + i), name=f"seen.{i}", op=hvd.Sum)
            for i in range(20)
        ]
        with hvd.timeline_range("waiting here"):
            for handle in handles:
                hvd.synchronize(handle)
        assert events_of(read_at_once(mine))[0]["name"] == "hora_clock", step
    hvd.stop_timeline()
    events = json.loads(mine.read_text())
    assert events[0]["args"]["rank"] == hvd.rank()
    lives = lives_of(events)
    for i in range(20):
        of_tensor = [event for name, event in lives if name == f"seen.{i}"]
        assert len(of_tensor) == 30
        for event in of_tensor:
            assert list(event["args"]) == ["taken", "agreed", "begun", "moved", "plan"]
            check_order(event)
    plans = {event["args"]["plan"] for _, event in lives}
    buckets = {e["args"]["plan"] for e in events if e["ph"] == "X" and 1 <= e["tid"] < 90}
    assert plans == buckets
    assert sum(e["name"] == "waiting here" for e in events) == 30


@on_ranks(2)
def test_a_timeline_starts_and_stops_and_starts_again():
    import torch

    import hora.torch as hvd

    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp()))
    hvd.stop_timeline()  # none is on
    for part in ("one", "two"):
        path = folder / f"{part}.{hvd.rank()}"
        hvd.start_timeline(str(path), mark_cycles=True)
        with pytest.raises(ValueError, match="stop it first"):
            hvd.start_timeline(path)
        hvd.allreduce(torch.ones(10), name=part)
        hvd.stop_timeline()
        hvd.allreduce(torch.ones(10), name="unseen")
        written = path if hvd.rank() == 0 else path.with_name(f"{part}.1.1")
        assert [name for name, _ in lives_of(json.loads(written.read_text()))] == [part]
    with pytest.raises(ValueError, match="no/such"):
        hvd.start_timeline(folder / "no/such/folder.json")


@on_ranks(2)
def test_metrics_count_what_was_done():
    import torch

    import hora.torch as hvd

    before = hvd.metrics()
    for _ in range(8):
        hvd.allreduce(torch.ones(256), name="counted")
    with pytest.raises(hvd.Mismatch):
        hvd.allreduce(torch.ones(1 + hvd.rank()), name="wrong")
    after = hvd.metrics()
    assert after["requests"] - before["requests"] == 9
    assert after["errors"] - before["errors"] == 1
    assert after["operations"]["allreduce"] - before["operations"]["allreduce"] == 9
    assert after["buckets"] - before["buckets"] == 8
    assert after["bytes"] - before["bytes"] == 8 * 1024
    assert after["wire_bytes"] - before["wire_bytes"] == 8 * 1024
    assert after["bucket_bytes"]["buckets"][11] - before["bucket_bytes"]["buckets"][11] == 8
    for name, count in {"negotiating": 8, "queued": 8, "moving": 8, "total": 9}.items():
        assert after["phases"][name]["count"] - before["phases"][name]["count"] == count
    text = hvd.metrics_text()
    assert f'hora_requests_total{{rank="{hvd.rank()}"}} {after["requests"]}\n' in text


# Under load torch alone takes most of a minute to start.
LONG = {"timeout": 150, "check": True}

LOOP = """
import sys, torch
import hora.torch as hvd
hvd.init()
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
    handles = [hvd.allreduce_async_(torch.ones(10), name=f"t{i}") for i in range(20)]
    for handle in handles:
        hvd.synchronize(handle)
hvd.shutdown()
"""


@needs_horarun
@pytest.mark.parametrize("variable", ["HORA_TIMELINE", "HOROVOD_TIMELINE"])
def test_the_variable_writes_a_file_for_each_rank_within_its_bound(tmp_path, variable):
    environment = {variable: str(tmp_path / "t.json"), "HORA_TIMELINE_BYTES": "128 KiB"}
    run_program(2, LOOP, environment=environment, **LONG)
    for name in ("t.json", "t.1.json"):
        text = (tmp_path / name).read_text()
        assert len(text) <= 128 << 10
        assert json.loads(text)[-1]["name"] == "hora_full"
    assert sorted(os.listdir(tmp_path)) == ["t.1.json", "t.json"]


KILLED = """
import json, os, signal, time, torch
import hora.torch as hvd
hvd.init()
for _ in range(50):
    hvd.allreduce(torch.ones(10), name="before")
mine = os.environ["HORA_TIMELINE"] if hvd.rank() == 0 else os.environ["MINE"]
while "moved" not in open(mine).read():
    time.sleep(0.01)
hvd.barrier()
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_horarun
def test_a_killed_rank_leaves_a_whole_file(tmp_path):
    files = [tmp_path / "t.json", tmp_path / "t.1.json"]
    environment = {"HORA_TIMELINE": str(files[0]), "MINE": str(files[1])}
    assert run_program(2, KILLED, environment=environment, timeout=150).returncode != 0
    for file in files:
        lives = lives_of(json.loads(file.read_text()))
        assert "before" in {name for name, _ in lives}


@needs_horarun
def test_a_second_start_writes_other_files(tmp_path):
    program = "import hora\n" + 2 * "hora.init(); hora.shutdown()\n"
    environment = {"HORA_TIMELINE": str(tmp_path / "t.json")}
    run_program(2, program, environment=environment, **LONG)
    names = ["t.1.json", "t.epoch2.1.json", "t.epoch2.json", "t.json"]
    assert sorted(os.listdir(tmp_path)) == names


@needs_horarun
def test_a_timeline_shows_backward(tmp_path):
    program = """
import torch
import hora.torch as hvd
hvd.init()
model = torch.nn.Linear(4, 4)
optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
for _ in range(7):
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
hvd.shutdown()
"""
    run_program(2, program, environment={"HORA_TIMELINE": str(tmp_path / "t.json")}, **LONG)
    for name in ("t.json", "t.1.json"):
        events = json.loads((tmp_path / name).read_text())
        assert sum(event["name"] == "backward" for event in events) == 7


@needs_horarun
def test_horovods_word_for_later_writes_nothing(tmp_path):
    program = f"import os; os.chdir({str(tmp_path)!r})\n{LOOP}"
    run_program(2, program, environment={"HOROVOD_TIMELINE": "DYNAMIC"}, **LONG)
    assert os.listdir(tmp_path) == []


@needs_horarun
def test_hora_timeline_merges_and_summarizes(tmp_path):
    environment = {"HORA_TIMELINE": str(tmp_path / "t.json")}
    run_program(2, LOOP, environment=environment, **LONG)
    files = [str(tmp_path / "t.json"), str(tmp_path / "t.1.json")]
    merged, picture = tmp_path / "merged.json", tmp_path / "picture.svg"
    subprocess.run([HORA, "timeline", "merge", files[0], "-o", str(merged)], check=True)
    events = json.loads(merged.read_text())
    assert {event["pid"] for event in events} == {0, 1}
    tails = {e["id"]: e for e in events if e["ph"] == "s"}
    heads = {e["id"]: e for e in events if e["ph"] == "f"}
    assert tails
    assert tails.keys() == heads.keys()
    assert all(tails[i]["pid"] != heads[i]["pid"] for i in tails)
    assert all(tails[i]["ts"] <= heads[i]["ts"] for i in tails)
    words = [HORA, "timeline", "summary", *files, "--svg", str(picture)]
    page = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "who was late" in page
    assert "t19" in page
    assert picture.read_text().endswith("</svg>\n")
    twice = [HORA, "timeline", "summary", files[0], files[0]]
    failed = subprocess.run(twice, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "both of rank 0" in failed.stderr
    over = [HORA, "timeline", "merge", *files, "-o", files[1]]
    failed = subprocess.run(over, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "rank 1's own file" in failed.stderr
    assert json.loads((tmp_path / "t.1.json").read_text())[0]["name"] == "hora_clock"
