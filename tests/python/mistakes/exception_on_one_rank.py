"""One rank meets a file that it cannot read."""

import tensors

import hora

PRINTED = ["ValueError: cannot read image 17", "'grad'.*rank 1"]
EXPLAINED = [
    "1. Rank 1 ended with an exception: ValueError: cannot read image 17 .*on_one_rank.py:",
    r"2. Rank 1 did not submit 'grad' \(allreduce of float32 \[4\]\); rank 0 waited",
    "rank 1 submitted it once, rank 0 2 times; its last was 'grad' .*; it ended with an exception",
]

hora.init()
for step in range(3):
    if hora.rank() == 1 and step == 1:
        raise ValueError("cannot read image 17")
    tensors.run("grad")
