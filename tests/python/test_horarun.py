"""Goal: horarun starts, watches and ends a job as it promises, and leaves nothing behind.

Method: the real program (from HORARUN, else PATH) starts small programs; pids show who lives.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

HORARUN = os.environ.get("HORARUN") or shutil.which("horarun") or ""
pytestmark = pytest.mark.skipif(not HORARUN, reason="no horarun in HORARUN or PATH")
LIMIT = 30  # seconds; no test needs more than a few


def run(*words, program=None, **options):
    command = [HORARUN, *words]
    if program is not None:
        command += [sys.executable, "-S", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def start(*words, program):
    command = [HORARUN, *words, sys.executable, "-S", "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(pids):
    """Waits until none of the processes lives."""
    deadline = time.monotonic() + LIMIT
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def numbers(stream, count):
    """The last words of so many lines, as numbers."""
    return [int(stream.readline().split()[-1]) for _ in range(count)]


def own_directories():
    return {path for path in pathlib.Path("/tmp").glob("hora-*") if path.owner() == os_user()}


def os_user():
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


IDENTITY = (
    "import os; e = os.environ; print(e['HORA_RANK'], e['HORA_SIZE'], e['RANK'], e['WORLD_SIZE'])"
)
# A child in the rank's process group, one that escaped into its own session, and the rank itself.
FAMILY = """
import os, sys, time
def child(escape):
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        if escape: os.setsid()
        os.write(tell, b'x')
        time.sleep(1000)
    os.read(ready, 1)
    return pid
for pid in (child(False), child(True), os.getpid()): print(pid, flush=True)
"""


def test_each_rank_knows_who_it_is_and_its_lines_carry_its_number():
    done = run("-np", "8", program=IDENTITY)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"[{r}] {r} 8 {r} 8" for r in range(8)]
    assert done.stderr == ""


def test_no_prefix_leaves_lines_as_they_are():
    done = run("--no-prefix", "-np", "2", program="print('same')")
    assert done.stdout == "same\nsame\n"


def test_stdout_and_stderr_stay_apart():
    program = "import sys; print('out'); print('err', file=sys.stderr)"
    done = run("-np", "1", program=program)
    assert (done.stdout, done.stderr) == ("[0] out\n", "[0] err\n")


def test_lines_do_not_mix_and_nothing_of_a_large_output_is_lost():
    program = """
import os, sys
rank = os.environ['HORA_RANK']
for i in range(20000):
    sys.stdout.write(f'{rank} {i} ' + rank * (i % 100) + '\\n')
sys.stdout.write('no newline at the end')
"""
    done = run("-np", "4", program=program)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for rank in "0123":
        expected = [f"[{rank}] {rank} {i} " + rank * (i % 100) for i in range(20000)]
        expected.append(f"[{rank}] no newline at the end")
        assert [line for line in lines if line.startswith(f"[{rank}]")] == expected
    assert len(lines) == 4 * 20001


def test_progress_bars_become_lines():
    program = "import sys; sys.stderr.write('\\r 10%\\r 50%\\r100%\\n')"
    assert run("-np", "1", program=program).stderr == "[0]  10%\n[0]  50%\n[0] 100%\n"


def test_the_first_failure_is_told_whole_and_last_and_its_code_is_ours():
    program = """
import os, time
if os.environ['HORA_RANK'] == '2':
    raise SystemExit(os.write(2, b'Traceback: the reason\\n') and 7)
print('others go on')
"""
    done = run("-np", "4", program=program)
    assert done.returncode == 7
    last = done.stderr.splitlines()[-2:]
    assert last[0] == "[2] Traceback: the reason"
    assert last[1].startswith("horarun: rank 2 (pid ") and last[1].endswith(") exited with code 7")
    assert done.stdout.count("others go on") == 3


def test_a_rank_killed_by_a_signal_is_named_and_the_code_is_128_more():
    program = "import os; os.environ['HORA_RANK'] == '1' and os.kill(os.getpid(), 9)"
    done = run("-np", "2", program=program)
    assert done.returncode == 137
    assert done.stderr.splitlines()[-1].endswith("was killed by signal 9 (Killed)")


def test_others_have_the_grace_time_and_are_then_stopped():
    program = """
import os, signal, sys, time
if os.environ['HORA_RANK'] == '0': sys.exit(3)
def end(*_):
    print('asked to end', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
time.sleep(1000)
"""
    done = run("--grace", "1s", "-np", "2", program=program)
    assert done.returncode == 3
    assert "[1] asked to end\n" in done.stdout


def test_nothing_a_rank_started_outlives_the_job():
    done = run("-np", "2", program=FAMILY)
    assert done.returncode == 0, done.stderr
    pids = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(pids) == 6
    assert gone(pids)


@pytest.mark.parametrize("victim", ["horarun", "its child"])
def test_a_killed_horarun_leaves_nothing(victim):
    before = own_directories()
    job = start("-np", "2", program=FAMILY + "time.sleep(1000)")
    pids = numbers(job.stdout, 6)
    pid = job.pid
    if victim == "its child":
        rank_stat = pathlib.Path(f"/proc/{pids[-1]}/stat").read_text()
        pid = int(rank_stat.rpartition(")")[2].split()[1])
        assert pid != job.pid
    os.kill(pid, signal.SIGKILL)
    job.communicate(timeout=LIMIT)
    assert job.returncode in (-9, 137)
    assert gone(pids)
    deadline = time.monotonic() + LIMIT
    while own_directories() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not own_directories() - before


WAITS = """
import os, signal, sys, time
count = 0
def note(number, frame):
    print('signal', number, flush=True)
    if {ends}: sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, note)
print(os.getpid(), flush=True)
while True: time.sleep(1000)
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_once_and_gives_its_code(number, code):
    job = start("-np", "2", program=WAITS.replace("{ends}", "True"))
    pids = numbers(job.stdout, 2)
    job.send_signal(number)
    out, err = job.communicate(timeout=LIMIT)
    assert job.returncode == code
    assert out.count(f"signal {int(number)}\n") == 2
    assert "exited with code" not in err  # the user wanted it
    assert gone(pids)


def test_a_second_ctrl_c_kills():
    job = start("-np", "2", program=WAITS.replace("{ends}", "False"))
    pids = numbers(job.stdout, 2)
    job.send_signal(signal.SIGINT)
    assert numbers(job.stdout, 2) == [2, 2]
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=LIMIT)
    assert job.returncode == 130
    assert gone(pids)


def test_x_sets_a_variable_and_flags_are_settings():
    program = "import os; print(os.environ['COLOR'], os.environ['HORA_COMPRESSION'])"
    done = run("-np", "1", "-x", "COLOR=red", "--compression", "fp16", program=program)
    assert done.stdout == "[0] red fp16\n"


def test_the_store_is_reachable_while_the_job_runs():
    program = """
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['HORA_STORE'].removeprefix('unix:'))
print('connected')
"""
    assert run("-np", "1", program=program).stdout == "[0] connected\n"


def test_rank_0_reads_our_input():
    program = "import sys; print(repr(sys.stdin.read()))"
    done = run("-np", "2", program=program, input="hello")
    assert sorted(done.stdout.splitlines()) == ["[0] 'hello'", "[1] ''"]


def test_dry_run_prints_what_would_run_and_starts_nothing(tmp_path):
    mark = tmp_path / "mark"
    done = run("-np", "2", "--dry-run", "touch", str(mark))
    assert done.returncode == 0
    assert "HORA_RANK=1" in done.stdout and "touch" in done.stdout
    assert not mark.exists()


def test_a_missing_program_is_named():
    done = run("-np", "2", "no-such-program-here")
    assert done.returncode == 127
    assert "no-such-program-here" in done.stderr


def test_a_wrong_setting_is_told_once_before_anything_starts():
    done = run("-np", "4", "-x", "HORA_BUKET_BYTES=1", program="print('started')")
    assert done.returncode == 2
    assert done.stderr.count("did you mean HORA_BUCKET_BYTES?") == 1
    assert done.stdout == ""


def test_a_wrong_compression_is_told_once_before_anything_starts():
    for words in (["--compression", "topk:ratoi=1%"], ["-x", "HORA_COMPRESSION=topk:ratoi=1%"]):
        done = run("-np", "4", *words, program="print('started')")
        assert done.returncode == 2
        assert done.stderr == (
            "horarun: HORA_COMPRESSION: compression, character 6: 'topk' has no key 'ratoi'; "
            "did you mean 'ratio'?\n"
        )
        assert done.stdout == ""


def test_a_reader_that_goes_away_does_not_hang_the_job():
    job = start("-np", "2", program="for i in range(100000): print(i)")
    job.stdout.readline()
    job.stdout.close()
    assert job.wait(timeout=LIMIT) == 0
    job.stderr.close()


def test_output_files_hold_what_each_rank_printed(tmp_path):
    program = (
        "import os, sys; print('a\\rb', os.environ['RANK']); sys.stderr.write('no end')\n"
        "sys.exit(int(os.environ['RANK']))"
    )
    done = run("-np", "2", "--output-dir", str(tmp_path / "new" / "logs"), program=program)
    assert done.returncode == 1
    assert done.stdout == ""
    told = done.stderr.splitlines()  # what failed is told as ever
    assert told[1] == "[1] no end"
    assert told[2].endswith("exited with code 1")
    files = {
        str(path.relative_to(tmp_path / "new")): path.read_bytes()
        for path in (tmp_path / "new").rglob("std*")
    }
    assert files == {
        "logs/rank.0/stdout": b"a\rb 0\n",
        "logs/rank.0/stderr": b"no end",
        "logs/rank.1/stdout": b"a\rb 1\n",
        "logs/rank.1/stderr": b"no end",
    }


def test_an_output_folder_that_cannot_be_made_is_named_and_nothing_starts(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("-np", "2", "--output-dir", str(tmp_path / "file"), program="print('started')")
    assert done.returncode == 1
    assert f"--output-dir: cannot write {tmp_path}/file/rank.0/stdout: Not a dir" in done.stderr
    assert "started" not in done.stdout


def test_a_file_of_settings_reaches_the_ranks_and_its_mistakes_are_told(tmp_path):
    good, bad = tmp_path / "run.toml", tmp_path / "run.yaml"
    good.write_text('lanes = 3\n[stall]\nwarning = "20 s"\n')
    bad.write_text("lanes: 3\nlames: 3\n")
    program = "import os; print(os.environ['HORA_LANES'], os.environ['HORA_STALL_WARNING'])"
    words = ("-np", "1", "--config-file", str(good))
    assert run(*words, program=program).stdout == "[0] 3 20 s\n"
    assert run(*words, "--lanes", "4", program=program).stdout == "[0] 4 20 s\n"
    wrong = run("-np", "1", "--config-file", str(bad), program=program)
    assert wrong.returncode == 2
    assert wrong.stderr == f"horarun: {bad}:2: 'lames' is no setting; did you mean lanes?\n"


def test_config_origin_shows_what_won_over_what(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("lanes = 3\n")
    hora = pathlib.Path(HORARUN).with_name("hora")
    words = [hora, "config", "--origin", "--config-file", file, "--lanes", "5"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "HORA_LANES": "4"}
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("HORA_LANES "))
    assert line.split(maxsplit=2)[1:] == [
        "5",
        f"flag --lanes, over environment 4, over file {file}:1 3, over default 3",
    ]


def test_check_build_says_what_is_built_in():
    done = run("--check-build")
    assert done.returncode == 0
    assert "    [X] PyTorch\n" in done.stdout
    assert "    [X] shm\n" in done.stdout


def test_version_and_help():
    assert run("--version").stdout.startswith("hora ")
    assert "Examples:" in run("--help").stdout
