"""Every rank believes that the parameters are broadcast from itself."""

import tensors

import hora
from hora.constants import Op

PRINTED = ["'weights': ranks disagree: (?=.*rank 0 has root 0)(?=.*rank 1 has root 1)"]
EXPLAINED = [
    "1. Mismatch: 'weights': ranks disagree: .*on ranks 0, 1",
    "1. Mismatch: (?=.*rank 0 has root 0)(?=.*rank 1 has root 1)",
    "What to do: give the same root_rank on all ranks",
]

hora.init()
tensors.run("weights", op=Op.BROADCAST, root=hora.rank())
