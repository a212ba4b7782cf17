"""Goal: whatever breaks in a job over two hosts, everybody learns in time what it was.

Method: the first faults of tests/faults/campaign.py, which does a thousand of them.
"""

import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

from links import needs_links
from support import needs_horarun

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "faults"))
from campaign import told  # noqa: E402
from judge import judge  # noqa: E402
from plan import KINDS, draw  # noqa: E402
from trial import run  # noqa: E402


@needs_horarun
@needs_links
def test_a_dozen_random_faults_are_noticed_and_the_guilty_is_named():
    faults = [draw(1, number, list(KINDS)) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        judged = [(trial, judge(trial)) for trial in pool.map(run, faults)]
    wrong = [told(trial, verdict) for trial, verdict in judged if verdict.problems]
    assert not wrong, "\n".join(wrong)
