"""The system runs out of memory and kills a rank."""

import os
import signal
import time

import tensors

import hora

PRINTED = ["lost rank 1"]
EXPLAINED = [
    "1. Rank 1 left no record: killed",
    "Rank 1 did not submit 'grad' .*; rank 0 waited",
    "The job ended: lost rank 1: .*told by rank 0",
]

hora.init()
tensors.run("warm_up")
if hora.rank() == 1:
    time.sleep(0.15)  # meanwhile rank 0 comes to wait for it, too short for a stall report
    os.kill(os.getpid(), signal.SIGKILL)
tensors.run("grad")
