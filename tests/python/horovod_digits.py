"""A program written to Horovod's documented interface: handwritten digits, as its users train.

Only the import would be different for Hora: `test_horovod_scripts.py` changes it and runs the rest.
"""

import argparse

import horovod.torch as hvd
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--test-batch-size", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--batches-per-allreduce", type=int, default=1)
    parser.add_argument("--fp16-allreduce", action="store_true")
    parser.add_argument("--use-adasum", action="store_true")
    parser.add_argument("--gradient-predivide-factor", type=float, default=1.0)
    parser.add_argument("--clip", action="store_true")
    parser.add_argument("--num-groups", type=int, default=0)
    return parser.parse_args()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3)
        self.norm = hvd.SyncBatchNorm(32)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.norm(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(x), dim=1)


def metric_average(value, name):
    return hvd.allreduce(torch.tensor(value), name=name).item()


def train(model, optimizer, loader, args, epoch):
    model.train()
    loader.sampler.set_epoch(epoch)
    for batch_idx, (data, target) in enumerate(loader):
        optimizer.zero_grad()
        step = max(1, len(data) // args.batches_per_allreduce)
        for i in range(0, step * args.batches_per_allreduce, step):
            loss = F.nll_loss(model(data[i : i + step]), target[i : i + step])
            loss.div_(args.batches_per_allreduce)
            loss.backward()
        if args.clip:
            optimizer.synchronize()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            with optimizer.skip_synchronize():
                optimizer.step()
        else:
            optimizer.step()
        if batch_idx % 10 == 0 and hvd.rank() == 0:
            seen = batch_idx * len(data)
            print(f"Train Epoch: {epoch} [{seen}/{len(loader.sampler)}]\tLoss: {loss.item():.6f}")


@torch.no_grad()
def test(model, loader):
    model.eval()
    loss = correct = 0.0
    for data, target in loader:
        output = model(data)
        loss += F.nll_loss(output, target, reduction="sum").item()
        correct += (output.argmax(1) == target).float().sum().item()
    loss = metric_average(loss / len(loader.sampler), "avg_loss")
    accuracy = metric_average(correct / len(loader.sampler), "avg_accuracy")
    if hvd.rank() == 0:
        print(f"Test set: Average loss: {loss:.4f}, Accuracy: {100 * accuracy:.2f}%")
    return accuracy


def train_unevenly(model, optimizer, data, target):
    """Ranks with more data go on alone; the others join."""
    model.eval()  # batch normalization would need all ranks
    for batch in range(2 + hvd.rank()):
        chosen = torch.arange(32) + 32 * (hvd.size() * batch + hvd.rank())
        optimizer.zero_grad()
        F.nll_loss(model(data[chosen]), target[chosen]).backward()
        optimizer.step()
    return hvd.join()


def main():
    args = parse_arguments()
    hvd.init()
    torch.manual_seed(42 + hvd.rank())
    torch.set_num_threads(1)

    digits = load_digits()
    data = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    target = torch.tensor(digits.target)
    train_set = TensorDataset(data[:1500], target[:1500])
    test_set = TensorDataset(data[1500:], target[1500:])
    loaders = []
    for part, batch in ((train_set, args.batch_size), (test_set, args.test_batch_size)):
        sampler = DistributedSampler(part, num_replicas=hvd.size(), rank=hvd.rank())
        size = batch * args.batches_per_allreduce
        loaders.append(DataLoader(part, batch_size=size, sampler=sampler))

    model = Net()
    lr_scaler = args.batches_per_allreduce * (1 if args.use_adasum else hvd.size())
    optimizer = optim.SGD(model.parameters(), lr=args.lr * lr_scaler, momentum=args.momentum)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    optimizer = hvd.DistributedOptimizer(
        optimizer,
        named_parameters=model.named_parameters(),
        compression=hvd.Compression.fp16 if args.fp16_allreduce else hvd.Compression.none,
        backward_passes_per_step=args.batches_per_allreduce,
        op=hvd.Adasum if args.use_adasum else hvd.Average,
        gradient_predivide_factor=args.gradient_predivide_factor,
        groups=args.num_groups or None,
    )
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)

    accuracy = 0.0
    for epoch in range(1, args.epochs + 1):
        train(model, optimizer, loaders[0], args, epoch)
        accuracy = test(model, loaders[1])
        scheduler.step()
    last = -1
    if args.batches_per_allreduce == 1 and not args.use_adasum:
        last = train_unevenly(model, optimizer, data, target)
        hvd.broadcast_parameters(model.state_dict(), root_rank=last)

    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    states = hvd.allgather_object({"rank": hvd.rank(), "weights": weights.tolist()})
    same = all(state["weights"] == states[0]["weights"] for state in states)
    best = hvd.broadcast_object({"accuracy": accuracy, "last": last}, root_rank=0)
    if hvd.rank() == 0:
        print(f"ranks {[s['rank'] for s in states]} same {same} last {last} {best['accuracy']:.3f}")
    hvd.shutdown()


if __name__ == "__main__":
    main()
