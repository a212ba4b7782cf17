"""Two tensors in flight have one name."""

import tensors

import hora

PRINTED = ["ValueError: 'grad' was submitted and has not ended: give every operation in flight"]
EXPLAINED = [
    "1. Rank 0 ended with an exception: ValueError: 'grad' was submitted and has not ended"
]

hora.init()
if hora.rank() == 0:
    tensors.submit("grad")
    tensors.submit("grad")
tensors.run("barrier")
