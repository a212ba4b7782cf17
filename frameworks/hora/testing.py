"""Is this compressor one? The laws that every chain keeps, as a test of three lines:

    from hora.testing import check_compressor

    def test_mine():
        check_compressor(Mine)

The engine relies on these laws, so what keeps them may be used in training; whether training gets
anywhere with it, `hora bench compressor` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hora import _native
from hora.compression import Compressor, chain_of

#: Sizes of tensors that have broken compressors before.
SIZES = (0, 1, 2, 7, 31, 32, 33, 513, 1000, 5001)


class Report(NamedTuple):
    """What was looked at, for people who want to know."""

    chain: str  #: canonical
    held: tuple[str, ...]  #: names of the laws that hold
    skipped: tuple[str, ...]  #: laws of traits that the compressor does not declare


class _Law(NamedTuple):
    check: Callable[[str], None]
    trait: str | None  # only for compressors that declare it
    advice: str


def check_compressor(compressor: Compressor | type[Compressor] | str) -> Report:
    """Tries every law on a compressor of hora.compression, or on any chain given as text.

    A class is registered, with its standard keys; an object's keys are its attributes of the same
    names. Takes a second or two. Errors: AssertionError names the law that does not hold, with
    numbers, and says what usually breaks it; ValueError for a chain that cannot be parsed.
    """
    chain = compressor if isinstance(compressor, str) else chain_of(compressor)
    traits = _trial(chain, 1).traits
    held, skipped = [], []
    for name, law in _LAWS.items():
        if law.trait is not None and not traits[law.trait]:
            skipped.append(name)
            continue
        try:
            law.check(chain)
        except (AssertionError, ValueError, _native.HoraError) as error:
            raise AssertionError(f"{chain}: {name}: {error}\n{law.advice}") from None
        held.append(name)
    return Report(_trial(chain, 1).canonical, tuple(held), tuple(skipped))


def _trial(chain: str, count: int, **options: int) -> _native.CodecTrial:
    return _native.CodecTrial(chain, 1, count, **options)


def gradient(count: int, seed: int) -> np.ndarray:
    """Numbers over many magnitudes, of both signs, as float32."""
    draw = np.random.default_rng(seed)
    normal = draw.standard_normal(count) * np.exp(draw.standard_normal(count))
    return normal.astype(np.float32)


def _inputs(count: int) -> dict[str, np.ndarray]:
    """What selections and scales have stumbled over."""
    single = np.zeros(count, np.float32)
    single[count // 2 : count // 2 + 1] = 5
    return {
        "numbers over many magnitudes": gradient(count, 1),
        "zeros": np.zeros(count, np.float32),
        "all equal": np.full(count, 2, np.float32),
        "one number among zeros": single,
        "numbers that fall off slowly": 1 / np.arange(1, count + 1, dtype=np.float32),
        "the smallest numbers": np.full(count, 1e-42, np.float32),
    }


def _decoded(trial: _native.CodecTrial, payload: bytes) -> np.ndarray:
    result = np.zeros(trial.count, np.float32)
    trial.finish(payload, result)
    return result


def _residual(trial: _native.CodecTrial) -> np.ndarray:
    values = np.zeros(trial.count, np.float32)
    trial.residual(values)
    return values


def _every_size(chain: str) -> None:
    for count in SIZES:
        trial = _trial(chain, count)
        for name, values in _inputs(count).items():
            payload = trial.encode(values)
            if not trial.traits["varies"]:
                assert len(payload) == trial.payload_bytes
            assert len(payload) <= trial.payload_bytes
            result = _decoded(trial, payload)
            bad = np.flatnonzero(~np.isfinite(result))
            assert not len(bad), (
                f"of {count} elements ({name}), element {bad[0]} decodes to no number"
            )


def _length(chain: str) -> None:
    for count in SIZES:
        again = {_trial(chain, count).payload_bytes for _ in range(2)}
        assert len(again) == 1, f"payload_bytes({count}) gave {sorted(again)}"


def _ends(chain: str) -> None:
    for count in SIZES:
        trial = _trial(chain, count)
        payload = trial.encode(gradient(count, 1))
        for beyond in (b"", b"\0" * 9, b"\xa5" * 9):
            used = trial.used_bytes(payload + beyond)
            assert used == len(payload), (
                f"of {count} elements a payload of {len(payload)} bytes seems to end after {used}"
            )


def _repeats(chain: str) -> None:
    values = gradient(1000, 2)
    payloads = [_trial(chain, 1000).encode(values, 3, 1, 4) for _ in range(2)]
    assert len(payloads[0]) == len(payloads[1]), "the same values gave another length"
    different = np.flatnonzero(np.frombuffer(payloads[0], "u1") != np.frombuffer(payloads[1], "u1"))
    assert not len(different), (
        f"the same values in the same step gave other bytes, from byte {different[0]} on"
        if len(different)
        else ""
    )


def _decodes_alike(chain: str) -> None:
    if _trial(chain, 1).aggregation == "linear":
        return  # its sums are decoded, not its payloads
    trial = _trial(chain, 1000)
    payload = trial.encode(gradient(1000, 3), 1, 0, 2)
    results = []
    for rank in range(2):
        other = _trial(chain, 1000)
        other.encode(gradient(1000, 4 + rank), 1, rank, 2)
        results.append(np.zeros(1000, np.float32))
        other.decode_add(payload, results[-1])
    assert np.array_equal(*results), "two ranks decode one payload to different numbers"


def _decodes_what_is_added(chain: str) -> None:
    if _trial(chain, 1).aggregation == "linear":
        return
    trial = _trial(chain, 1000)
    payload = trial.encode(gradient(1000, 3))
    once, added = np.zeros(1000, np.float32), np.full(1000, 3, np.float32)
    trial.decode_add(payload, once)
    trial.decode_add(payload, added, 0.5)
    worst = np.abs(added - (3 + 0.5 * once)).max()
    assert worst <= 1e-6 * (3 + np.abs(once).max()), f"0.5 of a payload, added to 3, is {worst} off"


def _conserves(chain: str) -> None:
    for count in SIZES:
        trial = _trial(chain, count)
        for step in range(3):
            values, before = gradient(count, step), _residual(trial)
            sent = _decoded(trial, trial.encode(values, step))
            asked, got = values + before, sent + _residual(trial)
            # A transform rounds sums of its whole block, hence the largest number of all.
            allowed = 1e-6 * max(np.abs(values).max(initial=0), np.abs(sent).max(initial=0))
            off = np.abs(asked - got).max(initial=0)
            assert off <= allowed, (
                f"of {count} elements, sent plus owed is {off:g} away from what was asked"
            )


def _exact(chain: str) -> None:
    if _trial(chain, 1).canonical.startswith("clip:"):
        return  # what is sent exactly is the clipped gradient
    values = gradient(1000, 5)
    sent = _decoded(trial := _trial(chain, 1000), trial.encode(values))
    wrong = np.flatnonzero((sent != 0) & (sent != values))
    assert not len(wrong), (
        f"element {wrong[0]} is {values[wrong[0]]} and comes back as {sent[wrong[0]]}"
        if len(wrong)
        else ""
    )


def _contracts(chain: str) -> None:
    for count in (1, 33, 1000, 20011):
        for name, values in _inputs(count).items():
            if not values.any() or name == "the smallest numbers":
                continue
            wide = values.astype(np.float64)
            lost = _decoded(trial := _trial(chain, count), trial.encode(values)) - wide
            assert lost @ lost < wide @ wide, (
                f"{count} elements ({name}) of squared norm {wide @ wide:g} lose {lost @ lost:g}"
            )


def _unbiased(chain: str) -> None:
    # Single elements are drawn too rarely for their variance to be known; signed sums of the error
    # are nearly normal.
    count, draws, sums = 300, 400, 32
    values = gradient(count, 6)
    signs = np.random.default_rng(7).choice(np.float32([-1, 1]), (sums, count))
    trial = _trial(chain, count)
    errors = np.array(
        [signs @ (_decoded(trial, trial.encode(values, draw)) - values) for draw in range(draws)]
    )
    bound = 5 * np.sqrt((errors**2).mean(0) / draws) + 1e-4 * np.abs(values).sum() / draws
    worst = np.argmax(np.abs(errors.mean(0)) - bound)
    mean = abs(errors.mean(0)[worst])
    assert mean <= bound[worst], (
        f"the mean of {draws} decodes is {mean:g} off, where chance explains {bound[worst]:g}"
    )


def _draws(chain: str) -> None:
    values = gradient(3000, 8)
    if (trial := _trial(chain, 3000)).round_bytes != trial.payload_bytes:
        return  # of several rounds only the first exchange of all draws
    one = _trial(chain, 3000).encode(values, 1)
    other = _trial(chain, 3000).encode(values, 2)
    assert one != other, "two steps encode the same values to the same bytes"


def _takes_back(chain: str) -> None:
    trial = _trial(chain, 1000)
    if trial.aggregation == "linear":
        return  # its memory is settled when all is over
    trial.encode(gradient(1000, 1))
    asked = _residual(trial) + gradient(1000, 2)
    trial.take_back(trial.encode(gradient(1000, 2), 1))
    off = np.abs(_residual(trial) - asked).max()
    assert off <= 1e-5 * (1 + np.abs(asked).max()), f"an exchange that failed has lost {off:g}"


def _survives_damage(chain: str) -> None:
    draw = np.random.default_rng(9)
    for count in (1, 33, 1000):
        trial = _trial(chain, count)
        good = trial.encode(gradient(count, 10))
        for damage in range(200):
            bad = bytearray(good)
            if damage == 0:
                bad = bad[:-1]
            elif damage == 1:
                bad.append(0)
            else:
                # Half of the damage hits the head, where counts, indices and scales are.
                span = len(bad) if damage % 2 else min(len(bad), 64)
                for place in draw.integers(0, span, 4):
                    bad[place] = draw.integers(0, 256)
            total = np.full(count, 3, np.float32)
            with np.errstate(all="ignore"):
                refused = _refuses(trial, bytes(bad), total)
            assert refused or damage > 1, "a payload of another length is not refused"


def _refuses(trial: _native.CodecTrial, payload: bytes, total: np.ndarray) -> bool:
    try:
        trial.decode_add(payload, total)
    except ValueError:
        return True
    return False


def _no_number(chain: str) -> None:
    for bad in (np.nan, -np.inf):
        trial = _trial(chain, 2000)
        trial.encode(gradient(2000, 1))
        before, values = _residual(trial), gradient(2000, 2)
        values[700] = bad
        sent = _decoded(trial, trial.encode(values, 1))
        assert not np.isfinite(sent[700]), f"{bad} comes back as {sent[700]}"
        after = _residual(trial)
        assert np.isfinite(after).all(), f"{bad} gets into the memory"
        lost = ~np.isfinite(sent) & (after != before)
        assert not lost.any(), f"element {np.argmax(lost)} was not sent, and its memory has changed"


_LAWS: dict[str, _Law] = {
    "the length of a payload follows from the count": _Law(
        _length,
        None,
        "payload_bytes(count) must be a pure function: every rank computes it, and no size is "
        "sent. Write how much of the room was used into the payload.",
    ),
    "a payload says itself where it ends": _Law(
        _ends,
        "varies",
        "used_bytes() must find the end of a payload that other bytes follow; write a length into "
        "its head.",
    ),
    "tensors of every size make their way": _Law(
        _every_size,
        None,
        "Usual reasons: a division by a scale that is zero, k = 0 elements of a short tensor, a "
        "last block that is shorter, bits that do not fill their byte.",
    ),
    "the same values give the same bytes": _Law(
        _repeats,
        None,
        "Draw random numbers from step.generator() only, write every byte that decode reads, and "
        "break ties by index (stable sorts), so that runs can be repeated.",
    ),
    "all ranks decode alike": _Law(
        _decodes_alike,
        None,
        "decode may use the payload, and of the step what all ranks share: "
        "step.shared_generator(), number, size, seed; not rank or generator().",
    ),
    "decoded values are added": _Law(
        _decodes_what_is_added,
        None,
        "decode must give the same numbers whenever it is called: keep nothing in the object.",
    ),
    "what is sent plus what is owed is what was asked": _Law(
        _conserves,
        "conserves",
        "decode must give the same numbers on the rank that encodes and on the others: keep "
        "nothing in the object, and do not draw private random numbers in decode.",
    ),
    "what is sent is sent exactly": _Law(
        _exact,
        "exact_values",
        "exact_values says that each element arrives to the bit or not at all. Values that are "
        "scaled or rounded are not exact: drop the trait.",
    ),
    "contractive means contractive": _Law(
        _contracts,
        "contractive",
        "Error feedback converges if encoding loses less than there was. Scale what is sent down "
        "(the mean magnitude, not the norm, for signs), or drop the trait.",
    ),
    "unbiased means unbiased": _Law(
        _unbiased,
        "unbiased",
        "The mean over draws must be the value itself: round up with the probability of the "
        "remainder, divide by the probability of being chosen, and do not clamp.",
    ),
    "random numbers change with the step": _Law(
        _draws,
        "random",
        "Draw from step.generator() or step.shared_generator(); a generator of your own with a "
        "fixed seed draws the same at every step. Without random numbers drop the trait.",
    ),
    "an exchange that fails loses nothing": _Law(
        _takes_back,
        "conserves",
        "What a payload says is put back by decoding it: decode must be repeatable.",
    ),
    "damaged payloads do no harm": _Law(
        _survives_damage,
        None,
        "Check counts and indices that were read from a payload before you use them, and raise "
        "ValueError; never allocate by a number from a payload.",
    ),
    "NaN and Inf are seen by all, and nothing owed is lost": _Law(
        _no_number,
        None,
        "A block with a NaN or Inf decodes to NaN, and its memory stays as it was (kPoison).",
    ),
}
