"""Ranks of one group reduce in the other group's process set."""

import tensors

import hora

RANKS = 3
PRINTED = ["'grad' has waited"]
EXPLAINED = [
    r"wait for each other: rank 0 for 'grad' \(.*, process set 1\); rank 1 for 'grad' \(.*set 2\)",
    "What to do: 'grad' is submitted in process set 1 here and in 2 there: call it for the same",
]

hora.init()
left = hora.add_process_set([0, 1])
right = hora.add_process_set([0, 1, 2])
third = hora.add_process_set([1, 2])
chosen = {0: left, 1: right, 2: third}[hora.rank()]
tensors.run("grad", process_set=chosen.process_set_id)
