"""One rank sums what the other averages."""

import tensors

import hora
from hora.constants import ReduceOp

PRINTED = [
    "'loss': ranks disagree: (?=.*rank 0 has reduction sum)(?=.*rank 1 has reduction average)"
]
EXPLAINED = [
    "1. Mismatch: 'loss': ranks disagree: .*on ranks 0, 1",
    "1. Mismatch: (?=.*rank 0 has reduction sum)(?=.*rank 1 has reduction average)",
    "What to do: give the same op= on all ranks",
]

hora.init()
tensors.run("loss", reduce=ReduceOp(hora.rank()))
