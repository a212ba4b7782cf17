"""What compression remembers of an optimizer's gradients, as entries of a `state_dict()`.

An entry is what one rank remembers of one tensor: opaque bytes, which say whose they are. They go
with a checkpoint that every rank writes for itself; in the file of one rank, read by all, there is
that rank's memory only, and the others begin with none. `hora.memories` says what becomes of them
when the number of ranks has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from hora import _native

Entries = dict[str, torch.Tensor]


def save(
    engine: _native.Engine, set_id: int, names: Iterable[tuple[str, str]], slabs: bool = True
) -> Entries:
    """Entries for (key, name of the operation); of tensors that have a memory only."""
    entries = {}
    for key, name in names:
        if saved := engine.save_memories(set_id, name, slabs):
            entries[key] = torch.frombuffer(bytearray(saved), dtype=torch.uint8)
    return entries


def load(
    engine: _native.Engine,
    set_id: int,
    names: Iterable[tuple[str, str]],
    entries: Mapping[str, torch.Tensor],
    ours: bool = False,
) -> None:
    """Puts entries in the place of what is remembered. `ours`: whoever saved them, it was for us.

    Errors: HoraError if an entry is damaged.
    """
    for key, name in names:
        if (entry := entries.get(key)) is not None:
            engine.load_memories([entry.numpy().tobytes()], ours, set_id, name)
