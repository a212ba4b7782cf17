"""One rank has found that it has nothing to do."""

import sys

import tensors

import hora

PRINTED = ["'grad'.*rank 1"]
EXPLAINED = [
    "1. Rank 1 did not submit 'grad'",
    "rank 1 never submitted this name, and nothing else; its program has ended",
]

hora.init()
if hora.rank() == 1:
    sys.exit(0)
tensors.run("grad")
