"""What torch_charlm.py reads and shows: its options, its text, its progress. No training here."""

import argparse
import json
import math
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

import hora.torch as hora

PACKAGE = "bible-kjv-text"
HELD_OUT = ("Ruth", "Jonah", "Mark", "Jas")
VERSE = re.compile(r"^(\d?[A-Z][A-Za-z]*)\d+:\d+ (.*)$")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a transformer on the letters of a text.")
    parser.add_argument("--text", type=Path, help=f"a text file; left out: Debian's {PACKAGE}")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32, help="of all ranks together")
    parser.add_argument("--length", type=int, default=128, help="letters that the network sees")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--large", action="store_true", help="10.8 million parameters")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument(
        "--compression", default="none", help="a chain: none, fp16, onebit, drop, ..."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="leave the results in this file")
    args = parser.parse_args()
    if args.large:
        args.width, args.layers = 384, 6
    args.heads = max(1, args.width // 32)
    # One core for each rank, so that a comparison of one rank with two is fair.
    torch.set_num_threads(1)
    return args


class Text:
    """Books as numbers of letters: those to train on in one piece, the held-out ones by name."""

    def __init__(self, books: dict[str, str], held_out: list[str]) -> None:
        self.letters = sorted(set("".join(books.values())))
        numbers = {letter: number for number, letter in enumerate(self.letters)}

        def encoded(text: str) -> torch.Tensor:
            return torch.tensor([numbers[letter] for letter in text], dtype=torch.uint8)

        self.training = encoded("".join(t for name, t in books.items() if name not in held_out))
        self.held_out = {name: encoded(books[name]) for name in held_out}


def read(args: argparse.Namespace) -> Text:
    """The text to train on. Without one the program ends and says where to get it."""
    whole = args.text.read_text(errors="replace") if args.text else _bible()
    books: dict[str, str] = {}
    for line in whole.splitlines():
        if verse := VERSE.match(line):
            books[verse[1]] = books.get(verse[1], "") + verse[2] + "\n"
    held_out = [name for name in HELD_OUT if name in books]
    if not held_out:  # any other text: its last tenth is held out
        cut = len(whole) * 9 // 10
        books, held_out = {"beginning": whole[:cut], "end": whole[cut:]}, ["end"]
    text = Text(books, held_out)
    least = 10 * args.length
    shortest = min(len(text.training), *(len(part) for part in text.held_out.values()), least)
    if shortest < least or len(text.letters) > 256:
        raise SystemExit(
            f"the text must have more than {least} letters in each part, and at most 256 different"
        )
    return text


def _bible() -> str:
    try:
        command = ["dpkg", "-L", PACKAGE]
        files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        (path,) = (Path(file) for file in files if file.endswith("/bible.data"))
        return b"".join(_windows(path.read_bytes())).decode("latin-1")
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"The text is not here. On Debian: apt-get install {PACKAGE}; elsewhere give any text "
            f"file of a few megabytes with --text FILE. ({error})"
        ) from error


def _windows(data: bytes) -> Iterator[bytes]:
    """The parts of a bible.data: 'EC02', at byte 88 their number, then where each begins.

    Each was made by compress(1), without its three bytes of magic; gzip reads that.
    """
    (count,) = struct.unpack_from(">I", data, 88)
    starts = [*struct.unpack_from(f">{count}I", data, 92), len(data)]
    for start, end in zip(starts, starts[1:], strict=False):
        part = b"\x1f\x9d\x90" + data[start:end]
        yield subprocess.run(["gzip", "-dc"], input=part, capture_output=True, check=True).stdout


@torch.no_grad()
def book_losses(net: torch.nn.Module, text: Text, args: argparse.Namespace) -> dict[str, float]:
    """Bits for each letter of each held-out book; the ranks share its windows."""
    net.eval()
    losses = {}
    for name, book in text.held_out.items():
        book = book[: min(len(book), 200 * args.length)].long()
        windows = book.unfold(0, args.length + 1, args.length)[hora.rank() :: hora.size()]
        sums = torch.zeros(2, dtype=torch.float64)
        for part in windows.split(16):
            guesses = net(part[:, :-1]).flatten(0, 1)
            answers = part[:, 1:].flatten()
            loss = functional.cross_entropy(guesses, answers, reduction="sum")
            sums += torch.tensor([loss.item(), answers.numel()], dtype=torch.float64)
        total, count = hora.allreduce(sums, op=hora.Sum, name=f"loss of {name}").tolist()
        losses[name] = total / count / math.log(2)
    return losses


class Report:
    """Rank 0 speaks for all."""

    def __init__(self, args: argparse.Namespace, text: Text, net: torch.nn.Module) -> None:
        self.args = args
        self.speaks = hora.rank() == 0
        self.started = self.part_started = time.perf_counter()
        self.losses: list[float] = []
        self.every = max(1, args.steps // 10)
        self.parameters = sum(p.numel() for p in net.parameters())
        if args.batch_size % hora.size():
            raise SystemExit(f"--batch-size must be a multiple of the {hora.size()} ranks")
        if self.speaks:
            ranks = "1 rank" if hora.size() == 1 else f"{hora.size()} ranks"
            print(
                f"training on {ranks}, compression {args.compression}: "
                f"{self.parameters / 1e6:.1f} M parameters, "
                f"{len(text.training) / 1e6:.1f} M letters of {len(text.letters)} kinds",
                flush=True,
            )

    def step(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if (step + 1) % self.every and step + 1 != self.args.steps:
            return
        # All ranks take part in the mean; one of them prints it.
        mean = hora.allreduce(torch.tensor(self.losses).mean(), name="training loss").item()
        now = time.perf_counter()
        letters = len(self.losses) * self.args.batch_size * self.args.length
        speed = letters / (now - self.part_started)
        self.losses, self.part_started = [], now
        if self.speaks:
            print(
                f"  step {step + 1:5}  {mean / math.log(2):.3f} bits/letter  "
                f"{speed:9,.0f} letters/s",
                flush=True,
            )

    def end(self, losses: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.started
        if not self.speaks:
            return
        metrics = hora.metrics()
        print(f"\n  {'held-out book':16}{'bits/letter':>12}")
        for name, bits in losses.items():
            print(f"  {name:16}{bits:>12.3f}")
        print(f"\n  {seconds:.1f} s, {self.args.steps} steps, ", end="")
        print(f"{metrics['wire_bytes'] / 1e6:.1f} MB sent by rank 0", flush=True)
        if self.args.json:
            results = {"ranks": hora.size(), "compression": self.args.compression}
            results |= {"parameters": self.parameters, "bits": losses, "seconds": seconds}
            self.args.json.write_text(json.dumps(results | metrics))
