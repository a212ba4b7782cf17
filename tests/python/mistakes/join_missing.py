"""One rank calls join when its data have run out; the other just ends."""

import tensors

import hora

PRINTED = ["hora.PeerLeft|PeerLeft"]
EXPLAINED = [
    "1. Rank 1 did not submit .*join.*; rank 0 waited",
    "its program has ended",
    "What to do: call hora.join.. on all ranks",
]

hora.init()
tensors.run("grad")
if hora.rank() == 0:
    hora.join()
