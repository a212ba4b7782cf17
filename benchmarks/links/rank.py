"""What a rank does: trains the 25-million-parameter MLP on MNIST's images, or exchanges one layer.

python benchmarks/links/rank.py --trainer "hora dgc" --data mnist.npz --report FOLDER
python benchmarks/links/rank.py --layer 4194304 --trainer "hora onebit" --report FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from trainers import chain_named, trainer_named

BATCH = 8  #: images of a rank in a step
TRAINING = 4000
HELD_OUT = 800
RATE = 0.02
COLUMNS = 1024


def mlp() -> nn.Module:
    """25.6 million parameters."""
    return nn.Sequential(
        *(nn.Linear(784, 3200), nn.ReLU(), nn.Linear(3200, 6144), nn.ReLU()),
        *(nn.Linear(6144, 560), nn.ReLU(), nn.Linear(560, 10)),
    )


class Images:
    """A rank's batches, and its share of what is held out."""

    def __init__(self, path: str, rank: int, size: int) -> None:
        with np.load(path) as data:
            images = torch.tensor(data["images"], dtype=torch.float32).flatten(1)
            labels = torch.tensor(data["labels"], dtype=torch.int64)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.images, self.labels = images[order], labels[order]
        self.rank, self.size = rank, size
        self.draw = torch.Generator().manual_seed(1)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(TRAINING, (self.size * BATCH,), generator=self.draw)
        which = which[self.rank :: self.size]
        return self.images[which], self.labels[which]

    @torch.no_grad()
    def held_out(self, net: nn.Module) -> float:
        """The sum of the losses of this rank's share; all ranks have HELD_OUT images."""
        share = slice(TRAINING + self.rank, TRAINING + HELD_OUT, self.size)
        guesses = net(self.images[share])
        return functional.cross_entropy(guesses, self.labels[share], reduction="sum").item()


def train(options: argparse.Namespace, images: Images) -> dict[str, Any]:
    """Times of the steps after the warm-up, and the loss on this rank's share every so often."""
    torch.manual_seed(1)
    net = mlp()
    trainer = trainer_named(options.trainer, net, RATE)
    times, losses, sent = [], [], 0
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up:
            sent = trainer.sent()
        inputs, labels = images.batch()
        began = time.perf_counter()
        trainer.optimizer.zero_grad()
        functional.cross_entropy(trainer.net(inputs), labels).backward()
        trainer.optimizer.step()
        times.append((time.perf_counter() - began) * 1e3)
        if options.every and (step + 1) % options.every == 0:
            losses.append(images.held_out(net) / HELD_OUT)
    sent = (trainer.sent() - sent) / options.steps
    trainer.end()
    return {"times": times[options.warm_up :], "losses": losses, "sent": sent}


def exchange(options: argparse.Namespace, rank: int) -> dict[str, Any]:
    """Allreduces of one layer's gradient, such as `hora.testing` makes them."""
    import hora.torch as hora
    from hora.testing import gradient

    hora.init()
    chain = chain_named(options.trainer)
    rows = options.layer // COLUMNS
    values = torch.from_numpy(gradient(rows * COLUMNS, rank + 1)).reshape(rows, COLUMNS)
    layer = torch.empty_like(values)  # reduced in place, as gradients are
    times, sent = [], 0
    for step in range(options.warm_up + options.steps):
        layer.copy_(values)
        hora.barrier()
        if step == options.warm_up:
            sent = hora.metrics()["wire_bytes"]
        began = time.perf_counter()
        hora.allreduce_(layer, name="layer", compression=chain)
        times.append((time.perf_counter() - began) * 1e3)
    sent = (hora.metrics()["wire_bytes"] - sent) / options.steps
    hora.shutdown()
    return {"times": times[options.warm_up :], "losses": [], "sent": sent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--trainer", required=True)
    add("--report", required=True, help="a folder: rank N writes N there")
    add("--data", help="images and labels, as an npz")
    add("--layer", type=int, default=0, help="exchange a layer of so many elements, do not train")
    add("--warm-up", type=int, default=3)
    add("--steps", type=int, default=10)
    add("--every", type=int, default=0, help="steps between losses")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if options.layer:
        result = exchange(options, rank)
    else:
        result = train(options, Images(options.data, rank, size))
    Path(options.report, str(rank)).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
