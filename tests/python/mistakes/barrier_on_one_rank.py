"""A barrier under `if rank == 0`."""

import tensors

import hora

PRINTED = [r"'grad' has waited \d+ s for 1 rank:.*rank 0 has not submitted it"]
EXPLAINED = [
    "Rank 0 and rank 1 wait for each other: rank 0 for 'barrier.unnamed.0' .barrier.; rank 1 for "
    "'grad'",
    "rank 1 did not submit 'barrier.unnamed.0'",
    "rank 0 did not submit 'grad'; rank 0 submitted it once, rank 1 2 times",
    "What to do: only rank 0 ever called 'barrier.unnamed.0', and rank 1 called 'grad' once more.",
]

hora.init()
tensors.run("grad")
if hora.rank() == 0:
    hora.barrier()
tensors.run("grad")
