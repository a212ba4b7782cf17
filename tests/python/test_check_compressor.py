"""The conformance suite passes what is right and finds what is wrong: each law is broken once."""

import itertools

import numpy as np
import pytest

from hora import compression
from hora.testing import check_compressor

PRESETS = "onebit qsgd terngrad efsign drop dgc powersgd fosgd natural fp16 bf16 randk lossless"


class Sound(compression.Compressor):
    """One scale and a sign: the smallest contraction."""

    contractive = True

    def payload_bytes(self, count):
        return 4 + (count + 7) // 8

    def encode(self, values, payload, step):
        payload[:4].view(np.float32)[0] = np.abs(values).mean(dtype=np.float64)
        payload[4:] = np.packbits(values < 0)

    def decode(self, payload, values, step):
        scale = payload[:4].view(np.float32)[0]
        values[:] = np.where(np.unpackbits(payload[4:], count=len(values)), -scale, scale)


class TooShort(Sound):
    def payload_bytes(self, count):
        return next(self.counter) + 8 + count

    counter = itertools.count()


class OwnDraws(Sound):
    def encode(self, values, payload, step):
        super().encode(values + np.random.default_rng().random(len(values)), payload, step)


class DividesByZero(Sound):
    def decode(self, payload, values, step):
        super().decode(payload, values, step)
        with np.errstate(all="ignore"):
            values *= values / values


class KnowsItsRank(Sound):
    def decode(self, payload, values, step):
        super().decode(payload, values, step)
        values *= step.rank + 1


class Remembers(Sound):
    calls = 0

    def decode(self, payload, values, step):
        super().decode(payload, values, step)
        Remembers.calls += 1
        values += Remembers.calls


class TooLarge(Sound):
    def decode(self, payload, values, step):
        super().decode(payload, values, step)
        values *= 3


class NotExact(Sound):
    exact_values = True


class Biased(Sound):
    unbiased = True


class SaysItDraws(Sound):
    random = True


class Trusting(Sound):
    """Believes a count that it has read."""

    def encode(self, values, payload, step):
        super().encode(values, payload, step)

    def decode(self, payload, values, step):
        if payload[3] & 0x80:
            raise MemoryError("a negative scale")
        super().decode(payload, values, step)


@pytest.mark.parametrize("chain", PRESETS.split())
def test_what_hora_has_passes(chain):
    assert "damaged payloads do no harm" in check_compressor(chain).held


@pytest.mark.parametrize("chain", ["lossless", "rle", "strom"])
def test_payloads_of_sizes_that_vary_end_where_they_say(chain):
    assert "a payload says itself where it ends" in check_compressor(chain).held


def test_a_sound_compressor_passes_and_its_report_says_what_was_tried():
    report = check_compressor(Sound)
    assert report.chain.startswith("ef:") and "+sound:code=h" in report.chain
    assert "contractive means contractive" in report.held
    assert "what is sent plus what is owed is what was asked" in report.held
    assert "unbiased means unbiased" in report.skipped
    assert len(report.held) + len(report.skipped) == 14


def test_an_exception_for_a_damaged_payload_is_a_refusal():
    check_compressor(Trusting)


@pytest.mark.parametrize(
    ("kind", "law", "advice"),
    [
        (TooShort, "the length of a payload follows from the count", "pure function"),
        (OwnDraws, "the same values give the same bytes", r"step\.generator\(\) only"),
        (DividesByZero, "tensors of every size make their way", "a scale that is zero"),
        (KnowsItsRank, "all ranks decode alike", "what all ranks share"),
        (Remembers, "(decoded values are added|all ranks decode alike)", ""),
        (TooLarge, "contractive means contractive", "Scale what is sent down"),
        (NotExact, "what is sent is sent exactly", "drop the trait"),
        (Biased, "unbiased means unbiased", "probability"),
        (SaysItDraws, "random numbers change with the step", "drop the trait"),
    ],
)
def test_what_is_wrong_is_named_with_advice(kind, law, advice):
    compression.register(kind)
    chain = ("noef+" if kind in (Biased, NotExact) else "") + kind.__name__.lower()
    with pytest.raises(AssertionError, match=f"(?s){law}: .*{advice}"):
        check_compressor(chain)


def test_a_failure_in_python_is_a_law_that_does_not_hold():
    class Fails(Sound):
        def encode(self, values, payload, step):
            payload[:] = 1 / 0

    with pytest.raises(AssertionError, match="compressor 'fails' failed on rank 0: encode: Zero"):
        check_compressor(Fails)


def test_a_chain_that_cannot_be_parsed_is_a_value_error():
    with pytest.raises(ValueError, match="did you mean 'topk'"):
        check_compressor("topkk")
