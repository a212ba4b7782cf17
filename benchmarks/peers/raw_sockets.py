"""What links carry: every host sends to all others, and receives from them, as many bytes as an
allreduce of each size must, over plain sockets and without adding anything up.

horarun -H a:1,b:1 python benchmarks/peers/raw_sockets.py --addresses a,b --json report.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

PORT = 29520
BLOCK = 1 << 20


def connect(rank: int, addresses: list[str]) -> list[socket.socket]:
    """To the ranks below; from those above."""
    listener = socket.create_server((addresses[rank], PORT), backlog=len(addresses))
    peers = []
    for address in addresses[:rank]:
        while True:  # until it listens
            try:
                peers.append(socket.create_connection((address, PORT), timeout=60))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    peers += [listener.accept()[0] for _ in addresses[rank + 1 :]]
    for peer in peers:
        peer.settimeout(60)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")  # as Hora does
    return peers


def send(peer: socket.socket, count: int) -> None:
    block = memoryview(bytes(BLOCK))
    for begin in range(0, count, BLOCK):
        peer.sendall(block[: min(BLOCK, count - begin)])


def receive(peer: socket.socket, count: int) -> None:
    block = bytearray(BLOCK)
    while count > 0:
        got = peer.recv_into(block, min(BLOCK, count))
        if got == 0:
            raise ConnectionError("a peer closed its connection")
        count -= got


def measure(peers: list[socket.socket], size: int, iterations: int) -> dict[str, float]:
    count = max(1, 2 * size // (len(peers) + 1))  # to each peer
    samples = []
    with ThreadPoolExecutor(2 * len(peers)) as pool:
        for _ in range(iterations + 2):
            begin = time.perf_counter()
            work = [pool.submit(way, peer, count) for way in (send, receive) for peer in peers]
            for one in work:
                one.result()
            samples.append((time.perf_counter() - begin) * 1e6)
    samples = samples[2:]  # connections begin slowly
    p10 = statistics.quantiles(samples, n=10)[0]
    return {"size": size, "time_us": statistics.median(samples), "p10_us": p10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--addresses", required=True, help="of every rank, commas between")
    parser.add_argument("--least", type=int, default=4)
    parser.add_argument("--most", type=int, default=64 << 20)
    parser.add_argument("--factor", type=float, default=16)
    parser.add_argument("--iterations", type=int, default=50, help="at most, for small sizes")
    parser.add_argument("--json")
    options = parser.parse_args()
    rank = int(os.environ["HORA_RANK"])
    peers = connect(rank, options.addresses.split(","))
    rows = []
    size = float(options.least)
    while size <= options.most:
        iterations = int(min(max((1 << 28) / size, 20), options.iterations))
        rows.append(measure(peers, int(size), iterations))
        size *= options.factor
    if rank == 0 and options.json:
        with open(options.json, "w") as file:
            json.dump({"rows": rows}, file)


if __name__ == "__main__":
    main()
