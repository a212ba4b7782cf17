"""What compression remembers between steps: residuals, momenta and clocks, for checkpoints.

A chain with error feedback owes the model what it did not send yet. `DistributedOptimizer` has it
in its `state_dict()`; the functions here are for programs without one.

Every rank saves its own and loads its own. With as many ranks as before, training goes on to the
bit. Otherwise rank r of N is succeeded by rank r mod M of M ranks, and what is owed to the model
stays what it was: the sum over the ranks for op=Sum, the mean for op=Average. So with fewer ranks
some have to load several parts; giving all parts to all ranks is fine, too. What nobody loads is
lost.
"""

from __future__ import annotations

from typing import Any

from hora import runtime


def compression_state() -> bytes:
    """What this rank's compression remembers of all tensors. Empty if nothing.

    Errors: Unavailable while operations are in flight, since part of a memory is then in messages.
    """
    return runtime.session().engine.save_memories(0, "", True)


def load_compression_state(*parts: bytes) -> None:
    """Puts what ranks have saved in the place of what this one remembers.

    All ranks must call it, with parts that were saved after the same step.

    Errors: HoraError for damaged parts, and nothing is loaded; Unavailable as above.
    """
    runtime.session().engine.load_memories([bytes(part) for part in parts if part], False, 0, "")


def compression_memories() -> dict[str, Any]:
    """What compression remembers, as metrics.

    `tensors` lists `process_set`, `tensor`, `chain`, `exchanges` so far, `bytes` of memory, and
    `owed`, the Euclidean norm of what the model is still to get. `lost` is the sum of magnitudes of
    what was owed and had to be dropped, because a chain or a shape has changed. Reads all
    memories.

    Errors: Unavailable while operations are in flight.
    """
    tensors, lost = runtime.session().engine.memories()
    return {"tensors": tensors, "lost": lost}
