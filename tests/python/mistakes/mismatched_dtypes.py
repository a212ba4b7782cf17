"""One rank computes in float64."""

import tensors

import hora

PRINTED = ["'loss': ranks disagree: (?=.*rank 0 has dtype float32)(?=.*rank 1 has dtype float64)"]
EXPLAINED = [
    "1. Mismatch: 'loss': ranks disagree: .*on ranks 0, 1",
    "1. Mismatch: (?=.*rank 0 has dtype float32)(?=.*rank 1 has dtype float64)",
    "What to do: cast the tensor to one type on all ranks",
]

hora.init()
tensors.run("loss", kind="fd"[hora.rank()])
