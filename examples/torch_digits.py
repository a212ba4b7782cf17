"""Trains a small convolutional network on real handwritten digits, on one process or on many.

    python examples/torch_digits.py
    horarun -np 2 python examples/torch_digits.py
    horarun -np 2 python examples/torch_digits.py --compression onebit

Plain PyTorch; the five lines marked `# hora` make it data-parallel. The batch size is the global
one, and every rank takes its share of each batch: any number of ranks computes the same thing.
"""

import torch
from torch import nn

import hora.torch as hora  # hora
from digits_report import Report, digits, options


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def main() -> None:
    args = options()
    hora.init()  # hora
    torch.manual_seed(args.seed)
    images, labels, test_images, test_labels = digits()

    net = network()
    loss_of = nn.CrossEntropyLoss()
    sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    sgd = hora.DistributedOptimizer(sgd, net.named_parameters(), args.compression)  # hora
    hora.broadcast_parameters(net.state_dict(), root_rank=0)  # hora

    report = Report(args)
    for epoch in range(args.epochs):
        for batch in torch.randperm(len(images)).split(args.batch_size):
            batch = batch[hora.rank() :: hora.size()]  # hora
            sgd.zero_grad()
            loss = loss_of(net(images[batch]), labels[batch])
            loss.backward()
            sgd.step()
        report.epoch(epoch, loss.item(), len(images))

    net.eval()
    with torch.no_grad():
        right = (net(test_images).argmax(1) == test_labels).float().mean()
    report.end(right.item())


if __name__ == "__main__":
    main()
