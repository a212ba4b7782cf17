"""Two ranks reduce two metrics in opposite orders."""

import tensors

import hora

PRINTED = [
    "'loss' has waited .*for 1 rank:.*rank 1 has not submitted it; its last was 'accuracy'",
    "'accuracy' has waited .*for 1 rank:.*rank 0 has not submitted it; its last was 'loss'",
]
EXPLAINED = [
    "Rank 0 and rank 1 wait for each other: rank 0 for 'loss' .*; rank 1 for 'accuracy'",
    "rank 1 did not submit 'loss'",
    "rank 0 did not submit 'accuracy'",
    "What to do: call them in the same order on all ranks",
]

hora.init()
for name in ("loss", "accuracy")[:: 1 if hora.rank() == 0 else -1]:
    tensors.run(name)
