"""One rank's storage does not answer."""

import time

import tensors

import hora

PRINTED = [r"'grad' has waited .*for 1 rank:.*rank 1 has not submitted it.*in next_batch"]
EXPLAINED = [
    "1. Rank 1 did not submit 'grad'",
    "rank 1 never submitted this name, and nothing else; it is busy elsewhere",
    "rank 1 was at:.*in next_batch",
    "What to do: its stack says where it is",
]


def next_batch():
    """The storage of rank 1 hangs for longer than the job waits."""
    if hora.rank() == 1:
        time.sleep(2)


hora.init()
next_batch()
tensors.run("grad")
