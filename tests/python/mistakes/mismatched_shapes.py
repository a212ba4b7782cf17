"""The last batch of one rank is smaller."""

import tensors

import hora

PRINTED = [
    r"'outputs': ranks disagree: (?=.*rank 0 has shape \[8, 2\])(?=.*rank 1 has shape \[5, 2\])"
]
EXPLAINED = [
    "1. Mismatch: 'outputs': ranks disagree: .*on ranks 0, 1",
    r"1. Mismatch: (?=.*rank 0 has shape \[8, 2\])(?=.*rank 1 has shape \[5, 2\])",
    "What to do: give the tensor one shape on all ranks. Is the last batch smaller",
]

hora.init()
tensors.run("outputs", (8 if hora.rank() == 0 else 5, 2))
