"""Rank 0 evaluates alone, and averages its metric with everybody."""

import tensors

import hora

PRINTED = [
    "'grad' has waited .*for 1 rank:.*rank 0 has not submitted it; its last was 'validation_loss'",
    "'validation_loss' has waited .*for 1 rank:.*rank 1 has not submitted it; its last was 'grad'",
]
EXPLAINED = [
    "Rank 0 and rank 1 wait for each other: rank 0 for 'validation_loss' .*; rank 1 for 'grad' ",
    "rank 1 did not submit 'validation_loss'; rank 1 never submitted this name",
    "rank 0 did not submit 'grad'; rank 0 submitted it once, rank 1 2 times",
    "What to do: only rank 0 ever called 'validation_loss', and rank 1 called 'grad' once more",
    "was at:.*evaluation_on_rank_0_only.py.*line",
]

hora.init()
for _ in range(2):
    tensors.run("grad")
    if hora.rank() == 0:
        tensors.run("validation_loss", (1,))
