"""Hosts on one machine, joined by links of a chosen rate, delay and loss.

    with Links(2, rate="100mbit", delay_ms=20) as links:
        links.run(0, "ping", "-c", "1", links.addresses[1])
        links.cut(0, 1)

The program `link_switch` (tests/links, built with the tests) makes the hosts and carries their
packets. They live no longer than it does, and it ends when its stdin does, so nothing stays behind
when a test is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shlex
import signal
import subprocess

import pytest
from support import HORARUN

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def bits_per_second(rate):
    """1e9 for "1gbit"; 0, without limit, for None."""
    if rate is None:
        return 0
    number, unit = re.fullmatch(r"([\d.]+)([kmg]?)bit", rate).groups()
    return int(float(number) * UNITS[unit])


def _program():
    """The switch of the build that horarun is from, else of the one that the stages make."""
    beside_horarun = pathlib.Path(HORARUN).resolve().parent.parent / "tests/links/link_switch"
    for path in (beside_horarun, ROOT / "build/dev/tests/links/link_switch"):
        if path.is_file():
            return str(path)
    return ""


@functools.cache
def obstacle():
    """Why there can be no links here; empty if there can."""
    if not _program():
        return "link_switch is not built (cmake --build --preset dev --target link_switch)"
    try:
        with Links(2):
            return ""
    except OSError as error:
        return f"this machine does not permit network namespaces or taps: {error}"


class Links:
    """`hosts` hosts, as a context manager. Host `i` has `addresses[i]` and `addresses6[i]` and is
    called `names[i]`; files, users and processes they share. `rate` is of each link and direction,
    `delay_ms` is one way, `loss` the probability for each packet, `queue_bytes` what a link
    holds back before it drops (default: what a good router has for this rate and delay)."""

    def __init__(self, hosts, *, rate=None, delay_ms=0, loss=0, queue_bytes=None):
        self.names = [f"h{i}" for i in range(hosts)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(hosts)]
        self.addresses6 = [f"fd77::{i + 1}" for i in range(hosts)]
        bits = bits_per_second(rate)
        queue = queue_bytes or max(1 << 20, int(bits / 8 * (2e-3 * delay_ms + 0.03)))
        self._words = [str(hosts), str(bits), str(delay_ms * 1000), str(queue), str(loss)]
        self._switch = None

    def __enter__(self):
        pipe = subprocess.PIPE
        self._switch = subprocess.Popen(
            [_program(), *self._words], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        ready = self._switch.stdout.readline().split()
        if ready[:1] != ["ready"]:
            _, reason = self._switch.communicate()
            raise OSError(reason.strip())
        folder = f"/proc/{self._switch.pid}"
        mine, theirs = (os.stat(f"{of}/ns/user").st_ino for of in ("/proc/self", folder))
        user = [] if mine == theirs else [f"--user={folder}/ns/user", "--preserve-credentials"]
        self._enter = []
        self._networks = set()
        for host in ready[1:]:
            network, name = host.split(":")
            self._enter.append(
                ["nsenter", *user, f"--net={folder}/fd/{network}", f"--uts={folder}/fd/{name}"]
            )
            self._networks.add(f"net:[{os.stat(f'{folder}/fd/{network}').st_ino}]")
        return self

    def __exit__(self, *_):
        self._kill_inhabitants()
        self._switch.communicate()

    def _kill_inhabitants(self):
        for pid in self.inhabitants():
            with contextlib.suppress(OSError):  # ended meanwhile
                os.kill(int(pid), signal.SIGKILL)

    def inhabitants(self):
        """What runs on the hosts, as {pid: command}. The switch itself is in the last one."""
        found = {}
        for folder in pathlib.Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self._switch.pid:
                continue
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours
                if os.readlink(folder / "ns/net") in self._networks:
                    found[folder.name] = (folder / "cmdline").read_text().replace("\0", " ")
        return found

    def argv(self, host, *command):
        """The command that runs `command` on a host."""
        return [*self._enter[host], "--", *map(str, command)]

    def start(self, host, *command, **options):
        """A `subprocess.Popen` on a host."""
        return subprocess.Popen(self.argv(host, *command), **options)

    def run(self, host, *command, timeout=60, environment=None):
        """Runs a command on a host, for so long; a CompletedProcess with what it printed."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        variables = {**os.environ, **(environment or {})}
        with self.start(host, *command, env=variables, start_new_session=True, **pipes) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                pytest.fail(f"not done after {timeout} s; printed:\n{output}")
        return subprocess.CompletedProcess(command, process.returncode, output)

    def rsh(self, folder):
        """A program that is called as ssh is, `rsh HOST COMMAND...`, for hosts by name or address.
        Made in `folder`; gives its path."""
        cases = [
            f"{name}|{address}) enter='{shlex.join(enter)}' ;;"
            for name, address, enter in zip(self.names, self.addresses, self._enter, strict=True)
        ]
        path = pathlib.Path(folder, "rsh")
        path.write_text(
            "#!/bin/sh\nhost=$1; shift\ncase $host in\n"
            + "\n".join(cases)
            + '\n*) echo "rsh: no host $host" >&2; exit 255 ;;\nesac\nexec $enter -- sh -c "$*"\n'
        )
        path.chmod(0o755)
        return str(path)

    def half_open(self, sender, receiver):
        """What `sender` sends to `receiver` vanishes; the other way nothing changes."""
        self._order(f"block {sender} {receiver}")

    def cut(self, a, b=None):
        """Nothing passes between two hosts, or between one and all others."""
        for x, y in self._pairs(a, b):
            self._order(f"block {x} {y}")

    def restore(self, a, b=None):
        """Undoes `cut` and `half_open`."""
        for x, y in self._pairs(a, b):
            self._order(f"pass {x} {y}")

    def down(self, host):
        """A host's interface, as an administrator does it: its routes go with it."""
        self._order(f"down {host}")

    def up(self, host):
        """Undoes `down`."""
        self._order(f"up {host}")

    def lose(self, probability):
        """Each packet from now on."""
        self._order(f"loss {probability}")

    def counts(self):
        """For each host: bytes sent and received, with all headers, and packets dropped."""
        return [tuple(map(int, host.split(":"))) for host in self._ask("counts").split()]

    def _pairs(self, a, b):
        others = [b] if b is not None else [i for i in range(len(self.names)) if i != a]
        return [pair for other in others for pair in ((a, other), (other, a))]

    def _order(self, command):
        answer = self._ask(command)
        assert answer == "ok", answer

    def _ask(self, command):
        self._switch.stdin.write(command + "\n")
        self._switch.stdin.flush()
        return self._switch.stdout.readline().strip()


def needs_links(test):
    """Skips a test, with the reason, where links are not possible. Found out when it runs."""

    @functools.wraps(test)
    def guarded(*arguments, **options):
        if obstacle():
            pytest.skip(obstacle())
        return test(*arguments, **options)

    return guarded
