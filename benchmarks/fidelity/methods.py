"""What is compared: a chain, and the optimizer that goes with it."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """`rate` multiplies the problem's learning rate. `memory`: what a payload leaves out is sent
    later, so the method is held to the accuracy of float32. `optimizer`: the problem's own (SGD
    with momentum 0.9, or AdamW), SGD without momentum where the chain has it, or Signum."""

    chain: str
    optimizer: str = "own"
    rate: float = 1.0
    memory: bool = False
    warm_up: float = 0.0  #: share of the steps in which topk's ratio falls


METHODS = {
    "float32": Method("none"),
    "bf16": Method("bf16"),
    "fp16": Method("fp16"),
    "lossless": Method("lossless"),
    "fp8": Method("fp8", memory=True),
    "onebit": Method("onebit", memory=True),
    "efsign": Method("efsign", memory=True),
    "strom": Method("strom", memory=True),
    "dryden": Method("dryden", memory=True),
    "drop": Method("drop", memory=True),
    "dgc": Method("dgc", "plain", memory=True, warm_up=0.25),
    "powersgd": Method("powersgd", memory=True),
    "qsgd": Method("qsgd"),
    "natural": Method("natural"),
    "terngrad": Method("terngrad"),
    "fosgd": Method("fosgd"),
    "signsgd": Method("signsgd", "plain", rate=0.02),
    "signum": Method("signum", "signum", rate=0.02),
}


def method_named(name: str) -> Method:
    """One of the table, also with keys of its own (`dgc:ratio=1%`), or any other chain, with the
    problem's own optimizer."""
    preset = METHODS.get(name.split(":")[0])
    if preset is None:
        return Method(name, memory=name.startswith("ef"))
    return preset if name in METHODS else preset._replace(chain=name)


def chain_of(method: Method, steps: int) -> str:
    """Its chain in a run of so many steps."""
    if method.warm_up == 0:
        return method.chain
    joint = "," if ":" in method.chain else ":"
    return f"{method.chain}{joint}warmup={round(method.warm_up * steps)}"
