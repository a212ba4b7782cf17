"""What torch_digits.py takes and shows: its options, its data, its progress. No training here."""

import argparse
import json
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import hora.torch as hora

TRAINING = 1536  # of 1797 images; a multiple of every sensible batch


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument(
        "--compression", default="none", help="a chain: none, fp16, onebit, drop, ..."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="leave the results in this file")
    args = parser.parse_args()
    # One core for each rank, so that a comparison of one rank with two is fair.
    torch.set_num_threads(1)
    return args


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images and labels, test images and labels; scikit-learn brings them along."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = shuffled[:TRAINING], shuffled[TRAINING:]
    return images[train], labels[train], images[test], labels[test]


class Report:
    """Rank 0 speaks for all."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.speaks = hora.rank() == 0
        self.started = self.epoch_started = time.perf_counter()
        if args.batch_size % hora.size() or TRAINING % args.batch_size:
            raise SystemExit(
                f"--batch-size {args.batch_size} must be a multiple of the {hora.size()} ranks, "
                f"and divide the {TRAINING} images; 64, 128 and 256 do"
            )
        if self.speaks:
            ranks = "1 rank" if hora.size() == 1 else f"{hora.size()} ranks"
            print(f"training on {ranks}, compression {args.compression}", flush=True)

    def epoch(self, epoch: int, loss: float, images: int) -> None:
        now = time.perf_counter()
        speed = images / (now - self.epoch_started)
        self.epoch_started = now
        last = epoch + 1 == self.args.epochs
        if self.speaks and (last or (epoch + 1) % max(1, self.args.epochs // 5) == 0):
            print(
                f"  epoch {epoch + 1:3}  loss {loss:.4f}  {speed:8,.0f} images/s",
                flush=True,
            )

    def end(self, accuracy: float) -> None:
        seconds = time.perf_counter() - self.started
        if not self.speaks:
            return
        print(f"  test accuracy {accuracy:.2%} after {seconds:.1f} s", flush=True)
        if self.args.json:
            results = {"ranks": hora.size(), "compression": self.args.compression}
            results |= {"accuracy": accuracy, "seconds": seconds, **hora.metrics()}
            self.args.json.write_text(json.dumps(results))
