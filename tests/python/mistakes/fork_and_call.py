"""A worker process that was forked reduces its own statistics."""

import os
import sys

import tensors

import hora

PRINTED = ["this process was made by fork.. from one that had called hora.init"]
EXPLAINED = ["Nothing is wrong"]  # the ranks themselves did well

hora.init()
child = os.fork()
if child == 0:
    tensors.run("statistics")
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
