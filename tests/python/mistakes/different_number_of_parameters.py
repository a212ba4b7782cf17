"""One rank's model has a layer more."""

import tensors

import hora

PRINTED = ["'layer3.weight'.*rank 0"]
EXPLAINED = [
    r"Rank 0 did not submit 'layer3.weight' \(allreduce of float32 \[4\]\), 'layer3.bias' .*; rank "
    "1 waited",
    "rank 0 never submitted this name; its last was 'layer2.bias' .*, done; its program",
    "What to do: call the same operations on all ranks. Do they build the same model",
]

hora.init()
layers = range(3 + hora.rank())
handles = [
    tensors.submit(f"layer{layer}.{part}") for layer in layers for part in ("weight", "bias")
]
for handle in handles:
    tensors.wait(handle)
