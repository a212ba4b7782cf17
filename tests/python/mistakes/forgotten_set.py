"""Only the members of a process set make it; all ranks must."""

import tensors

import hora

RANKS = 3
PRINTED = ["'grad' has waited .*for 2 ranks:.*rank 0 has not submitted it.*rank 1 has not"]
EXPLAINED = [
    "Ranks 0, 1 and rank 2 wait for each other: ranks 0, 1 for .*add_process_set.*; rank 2 for "
    "'grad'",
    "What to do: add every process set on all ranks",
]

hora.init()
if hora.rank() < 2:
    pair = hora.add_process_set([0, 1])
tensors.run("grad")
