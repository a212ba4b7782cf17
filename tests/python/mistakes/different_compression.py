"""One rank was changed to compress its gradients."""

import tensors

import hora

PRINTED = [
    "'grad': ranks disagree: (?=.*rank 0 has compression 'none')(?=.*rank 1 has compression 'fp16)"
]
EXPLAINED = [
    "1. Mismatch: 'grad': ranks disagree: .*on ranks 0, 1",
    "1. Mismatch: (?=.*rank 0 has compression 'none')(?=.*rank 1 has compression 'fp16)",
    "What to do: give the same compression on all ranks",
]

hora.init()
tensors.run("grad", chain=("none", "fp16")[hora.rank()])
