"""What is trained: real handwritten digits, and the letters of a book.

A problem's data, order of batches and first weights are functions of the seed alone, so runs of one
seed differ by their method only. The batch is the global one; every rank takes its share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mnist
import numpy as np
import torch
from torch import nn
from torch.nn import functional

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Batch = tuple[torch.Tensor, torch.Tensor]


class Task:
    """One seed's training: batches to learn from and examples that are held out."""

    def __init__(self, net: nn.Module, train: Callable[[int], Batch], held_out: Batch) -> None:
        self.net = net
        self.batch = train  #: the global batch of a step
        self._held_out = held_out

    def loss(self, inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        guesses = self.net(inputs)
        return functional.cross_entropy(guesses.flatten(0, -2), answers.flatten())

    @torch.no_grad()
    def evaluate(self, rank: int, size: int) -> torch.Tensor:
        """(sum of losses, right guesses, guesses) over a rank's share of what is held out."""
        sums = torch.zeros(3, dtype=torch.float64)
        inputs, answers = (part[rank::size] for part in self._held_out)
        for some, right in zip(inputs.split(128), answers.split(128), strict=True):
            guesses, right = self.net(some).flatten(0, -2), right.flatten()
            loss = functional.cross_entropy(guesses, right, reduction="sum")
            correct = (guesses.argmax(1) == right).sum()
            sums += torch.tensor([loss.item(), correct.item(), len(right)], dtype=torch.float64)
        return sums


class Problem(NamedTuple):
    """`make(seed, problem, folder)` gives a Task; `prepare(folder, options)` what all share."""

    what: str
    make: Callable[[int, Any, Path], Task]
    prepare: Callable[[Path, argparse.Namespace], None]
    batch: int
    steps: int
    rate: float
    measure: str = "accuracy"
    every: int = 48  #: steps between evaluations
    adam: bool = False


# Images


def _prepare_digits(folder: Path, _: argparse.Namespace) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    np.savez(folder / "digits.npz", images=data.images[:, None] / 16, labels=data.target)


def _prepare_mnist(folder: Path, _: argparse.Namespace) -> None:
    mnist.save(folder / "mnist.npz")


def _images(
    name: str, network: Callable[[], nn.Module], training: int
) -> Callable[[int, Problem, Path], Task]:
    def make(seed: int, problem: Problem, folder: Path) -> Task:
        """The seed also draws which images are held out."""
        with np.load(folder / f"{name}.npz") as data:
            images = torch.tensor(data["images"], dtype=torch.float32)
            labels = torch.tensor(data["labels"], dtype=torch.int64)
        order = torch.randperm(len(images))
        known, held_out = order[:training], order[training:]
        each = training // problem.batch
        epochs = -(-problem.steps // each)
        batches = torch.cat(
            [known[torch.randperm(training)[: each * problem.batch]] for _ in range(epochs)]
        )

        def batch(step: int) -> Batch:
            which = batches[step * problem.batch : (step + 1) * problem.batch]
            return images[which], labels[which]

        return Task(network(), batch, (images[held_out], labels[held_out]))

    return make


def digits_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def convnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def mlp() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, 256, 256):
        layers += [nn.Linear(inputs, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


# Letters


def _prepare_text(folder: Path, options: argparse.Namespace) -> None:
    if (folder / "kjv.pt").exists():
        return
    sys.path.insert(0, str(EXAMPLES))
    from charlm_text import read

    text = read(argparse.Namespace(text=options.text, length=64))
    held_out = torch.cat(list(text.held_out.values()))
    torch.save((text.training, held_out, len(text.letters)), folder / "kjv.pt")


def _letters(seed: int, problem: Problem, folder: Path) -> Task:
    """Windows of 64 letters; the books that are held out are those of examples/torch_charlm.py."""
    sys.path.insert(0, str(EXAMPLES))
    from torch_charlm import Transformer

    length = 64
    training, held_out, kinds = torch.load(folder / "kjv.pt")
    net = Transformer(kinds, length, 384, 6, 12)
    starts = torch.randint(len(training) - length, (problem.steps, problem.batch))

    def windows(text: torch.Tensor, at: Iterator[int] | list[int]) -> Batch:
        rows = torch.stack([text[start : start + length + 1] for start in at]).long()
        return rows[:, :-1], rows[:, 1:]

    some = torch.linspace(0, len(held_out) - length - 1, 128).long().tolist()
    return Task(net, lambda step: windows(training, starts[step].tolist()), windows(held_out, some))


PROBLEMS = {
    "digits": Problem(
        "scikit-learn's 1797 digits of 8 x 8, convnet; a smoke test",
        *(_images("digits", digits_net, 1280), _prepare_digits, 64, 240, 0.03),
        every=40,
    ),
    "convnet": Problem(
        "MNIST, 3072 images to learn from and 1928 held out, convnet of 80,000 parameters",
        *(_images("mnist", convnet, 3072), _prepare_mnist, 64, 960, 0.03),
        every=96,
    ),
    "mlp": Problem(
        "the same images, fully connected with three hidden layers of 256, 335,000 parameters",
        *(_images("mnist", mlp, 3072), _prepare_mnist, 64, 960, 0.03),
        every=96,
    ),
    "transformer": Problem(
        "King James text split by book, character transformer of 10.8 million parameters",
        *(_letters, _prepare_text, 8, 240, 1e-3, "bits", 40, True),
    ),
    "transformer-sgd": Problem(
        "the same with momentum SGD in the place of AdamW, for chains that have the momentum",
        *(_letters, _prepare_text, 8, 240, 0.1, "bits", 40),
    ),
}
