"""The data were not split evenly: one rank's epoch has a batch less."""

import tensors

import hora

PRINTED = ["'grad' has waited .*for 1 rank:.*rank 1 has not submitted it; its last was 'epoch_end'"]
EXPLAINED = [
    "Rank 0 and rank 1 wait for each other: rank 0 for 'grad' .*; rank 1 for 'epoch_end'",
    "rank 1 did not submit 'grad'; rank 1 submitted it 3 times, rank 0 4 times",
    "if rank 0 ran more steps, give all ranks equally many steps",
]

hora.init()
for _ in range(4 - hora.rank()):
    tensors.run("grad")
tensors.run("epoch_end")
