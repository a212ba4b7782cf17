"""The links that other tests rely on: their rate, their delay, and what passes when they are cut.

Bytes are exact and so are lower bounds; a time's upper bound only says that the delay is not paid
twice.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from links import Links, needs_links

# Each host sends for a while to the other, both at once, and prints the bytes that reached it.
EXCHANGE = """
import socket, sys, threading, time
me, peer, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
server = socket.create_server((me, 5000))
def send():
    for _ in range(200):
        try:
            out = socket.create_connection((peer, 5000), timeout=5)
            break
        except OSError:
            time.sleep(0.05)
    out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")  # simple, and everywhere
    block, end = bytes(1 << 16), time.monotonic() + seconds + 2
    try:
        while time.monotonic() < end:
            out.sendall(block)
    except OSError:
        pass
threading.Thread(target=send, daemon=True).start()
source, _ = server.accept()
buffer = bytearray(1 << 20)
begin = time.monotonic() + 1  # not the first moments, in which TCP is slow
while time.monotonic() < begin:
    source.recv_into(buffer)
count, begin = 0, time.monotonic()
while time.monotonic() < begin + seconds:
    count += source.recv_into(buffer)
print(count * 8 / (time.monotonic() - begin))
"""

# Prints the shortest of some round trips, in milliseconds.
ECHO = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 5000), family=family)
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while message := peer.recv(100):
        peer.sendall(message)
"""
ROUND_TRIP = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 5000), timeout=20)
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(10):
    begin = time.monotonic()
    peer.sendall(b"x")
    peer.recv(100)
    times.append(time.monotonic() - begin)
print(min(times) * 1000)
"""

SPRAY = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    for _ in range(400):
        out.sendto(b"x", (sys.argv[1], 9))
"""

REACH = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=1)"


def python(links, host, program, *arguments):
    return links.start(
        host, sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, text=True
    )


@needs_links
def test_both_directions_carry_the_rate_at_once():
    # TCP's answer to losses is not what is asked about.
    with Links(2, rate="100mbit", queue_bytes=8 << 20) as links:
        ends = [
            python(links, me, EXCHANGE, links.addresses[me], links.addresses[1 - me], "1.5")
            for me in (0, 1)
        ]
        rates = [float(end.communicate(timeout=30)[0]) for end in ends]
    # Of 1538 bytes on the wire 1448 are payload.
    payload = 100e6 * 1448 / 1538
    for rate in rates:  # a busy machine carries less, but of a link that both share half at most
        assert 0.6 * payload < rate < 1.1 * payload


@needs_links
@pytest.mark.parametrize("family", ["addresses", "addresses6"])
def test_a_round_trip_takes_two_delays(family):
    with Links(2, rate="1gbit", delay_ms=30) as links:
        address = getattr(links, family)[1]
        echo = python(links, 1, ECHO, address)
        assert echo.stdout.readline() == "ready\n"
        trip, _ = python(links, 0, ROUND_TRIP, address).communicate(timeout=30)
        assert 60 <= float(trip) < 90


@needs_links
def test_a_cut_link_carries_nothing_until_it_is_restored():
    with Links(3) as links:
        echoes = [python(links, host, ECHO, links.addresses[host]) for host in (1, 2)]
        assert [echo.stdout.readline() for echo in echoes] == ["ready\n"] * 2

        def reaches(receiver):
            job = links.run(0, sys.executable, "-c", REACH, links.addresses[receiver])
            return job.returncode == 0

        links.cut(0, 1)
        assert not reaches(1)
        assert reaches(2)  # only that pair
        links.restore(0, 1)
        assert reaches(1)
        links.half_open(1, 0)  # the question arrives, the answer does not
        assert not reaches(1)
        links.restore(0)
        assert reaches(1)


@needs_links
def test_lost_packets_are_counted():
    with Links(2, rate="1gbit", loss=0.5) as links:
        links.run(0, sys.executable, "-c", SPRAY, links.addresses[1])
        sent, _, dropped = links.counts()[0]
        assert sent > 0
        assert dropped > 20


@needs_links
def test_hosts_have_names_and_leave_nothing_when_their_user_is_killed(tmp_path):
    program = (
        "import time; from links import Links\n"
        "with Links(2) as links:\n"
        "    print(links._switch.pid, links.run(1, 'hostname').stdout, end='', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=os.path.dirname(__file__),
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        pid, name = user.stdout.readline().split()
        assert name == "h1"
        user.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)
    pytest.fail("the switch goes on")
