"""Trains a small transformer to predict the next character of English text.

    python examples/torch_charlm.py
    horarun -np 2 python examples/torch_charlm.py
    horarun -np 2 python examples/torch_charlm.py --compression onebit --text FILE

Plain PyTorch; the five lines marked `# hora` make it data-parallel. The text is the King James
Bible of Debian's bible-kjv-text, split by book: four books are never trained on. The batch size is
the global one, and every rank takes its share of each batch.
"""

import torch
from torch import nn
from torch.nn import functional

import hora.torch as hora  # hora
from charlm_text import Report, book_losses, options, read


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.take, self.give = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.take(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.give(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.think(self.after(x))


class Transformer(nn.Module):
    def __init__(self, letters: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, letters))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        places = self.place.weight[: text.shape[1]]
        return self.head(self.blocks(self.letter(text) + places))


def main() -> None:
    args = options()
    hora.init()  # hora
    torch.manual_seed(args.seed)
    text = read(args)

    net = Transformer(len(text.letters), args.length, args.width, args.layers, args.heads)
    adam = torch.optim.AdamW(net.parameters(), lr=args.rate)
    adam = hora.DistributedOptimizer(adam, net.named_parameters(), args.compression)  # hora
    hora.broadcast_parameters(net.state_dict(), root_rank=0)  # hora
    warmup = torch.optim.lr_scheduler.LinearLR(adam, 0.1, total_iters=20)

    report = Report(args, text, net)
    for step in range(args.steps):
        starts = torch.randint(len(text.training) - args.length, (args.batch_size,))
        starts = starts[hora.rank() :: hora.size()]  # hora
        windows = torch.stack([text.training[s : s + args.length + 1] for s in starts]).long()
        adam.zero_grad()
        guesses = net(windows[:, :-1])
        loss = functional.cross_entropy(guesses.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        adam.step()
        warmup.step()
        report.step(step, loss.item())

    report.end(book_losses(net, text, args))


if __name__ == "__main__":
    main()
