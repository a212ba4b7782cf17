"""A rank reduces in a process set that it does not belong to."""

import tensors

import hora

PRINTED = ["ValueError: 'grad': this rank is not a member of process set 1"]
EXPLAINED = ["1. Rank 1 ended with an exception: ValueError: 'grad': this rank is not a member"]

hora.init()
first = hora.add_process_set([0])
tensors.run("grad", process_set=first.process_set_id)
