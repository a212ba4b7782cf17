"""A rank skips a step whose loss is not finite; the end of the job comes too early for it."""

import tensors

import hora

PRINTED = ["'grad'.*rank 1"]
EXPLAINED = [
    r"1. Rank 1 did not submit 'grad' \(allreduce of float32 \[4\]\); rank 0 waited",
    "rank 1 submitted it 4 times, rank 0 5 times; .*; its program has ended",
    "What to do: give all ranks equally many steps",
]

hora.init()
for step in range(5):
    if step == 2 and hora.rank() == 1:
        continue
    tensors.run("grad")
