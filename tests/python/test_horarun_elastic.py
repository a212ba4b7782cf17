"""Goal: however an elastic job ends, nothing of it is left, also if its ranks have children and its
discovery script hangs. Method: programs without torch, which never ask for a place.
"""

import os
import signal
import subprocess
import sys

import pytest
from support import HORARUN, needs_horarun
from test_horarun import FAMILY, LIMIT, gone, numbers

pytestmark = needs_horarun


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_to_horarun_ends_ranks_their_children_and_the_script(tmp_path, sent, code):
    pid_of_script = tmp_path / "pid"
    os.mkfifo(pid_of_script)
    again = tmp_path / "again"
    # At first two slots; the second time it hangs.
    script = (
        f"test -e {again} && {{ echo $$ > {pid_of_script}; sleep 1000; }}; "
        f"touch {again}; echo localhost:2"
    )
    words = [HORARUN, "--min-np", "2", "--host-discovery-script", script, "--grace", "1s"]
    program = FAMILY + "time.sleep(1000)\n"
    with subprocess.Popen(
        [*words, sys.executable, "-S", "-c", program], stdout=subprocess.PIPE, text=True
    ) as job:
        pids = numbers(job.stdout, 6)
        pids.append(int(pid_of_script.read_text()))
        job.send_signal(sent)
        assert job.wait(LIMIT) == code
    assert gone(pids)


def test_when_all_ranks_fail_before_they_have_met_the_job_ends_with_their_code():
    words = [HORARUN, "-np", "1", "--min-np", "1", "--blacklist-cooldown-range", "10ms", "10ms"]
    done = subprocess.run(
        [*words, sys.executable, "-S", "-c", "import sys; sys.exit('no data')"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert "all ranks have failed before they had met" in done.stderr
    assert "no data" in done.stderr
