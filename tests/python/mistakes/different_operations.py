"""One rank gathers what the other reduces."""

import tensors

import hora
from hora.constants import Op

PRINTED = ["'scores': ranks disagree: (?=.*rank 0 has operation allreduce)(?=.*rank 1 .*allgather)"]
EXPLAINED = [
    "1. Mismatch: 'scores': ranks disagree: .*on ranks 0, 1",
    "1. Mismatch: (?=.*rank 0 has operation allreduce)(?=.*rank 1 .*allgather)",
    "What to do: two operations have one name",
]

hora.init()
tensors.run("scores", op=(Op.ALLREDUCE, Op.ALLGATHER)[hora.rank()])
