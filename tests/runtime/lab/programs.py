"""Small programs that run inside parties, and functions that start them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.lab.host import check
from cloven.runtime.lab.network import Network


def _lacking() -> str:
    try:
        check(rate=True, relay=True)
    except ClovenError as error:
        return str(error)
    return ""


def set_link(net: Network, a: str, b: str, *, up: bool) -> None:
    """Cut a link, or restore it. While it is cut, both ends drop packets silently: without error or reset."""
    for one, other in ((a, b), (b, a)):
        words = net.quality(one, other).discipline if up else "blackhole"
        line = f"qdisc replace dev {net.interface(one, other)} root {words}"
        subprocess.run(net.command(one, ["tc", "-batch", "-"]), input=line, text=True, check=True)


LACKING = _lacking()
root = pytest.mark.skipif(bool(LACKING), reason=LACKING)
PYTHON = [sys.executable, "-I", "-S", "-c"]

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 7001))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.setsockopt(6, 1, 1)
    while head := peer.recv(8, socket.MSG_WAITALL):
        left = int.from_bytes(head, "big")
        while left and (part := peer.recv(min(left, 1 << 20))):
            left -= len(part)
        peer.sendall(b"k")
"""
"""Answers each message, 8 bytes of length and that many bytes, with one byte."""

ASK = """
import socket, sys, time
address, length, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
peer = socket.create_connection((address, 7001), timeout=20)
peer.setsockopt(6, 1, 1)
message = length.to_bytes(8, "big") + bytes(length)
for _ in range(times):
    start = time.perf_counter()
    peer.sendall(message)
    assert peer.recv(1) == b"k"
    print(time.perf_counter() - start, flush=True)
    time.sleep(0.002)
"""
"""Prints the round-trip time of each message and its answer, in seconds."""

LISTEN = """
import os, socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind((sys.argv[1], 0))
print("ready", flush=True)
os.set_blocking(0, False)
while not sys.stdin.buffer.read(1):
    raw.settimeout(0.05)
    try:
        frame = raw.recv(70000)
    except TimeoutError:
        continue
    print(frame[12:14].hex(), socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]), flush=True)
"""
"""Prints the EtherType, source and target of each frame on an interface until it reads a byte."""


@contextmanager
def running(net: Network, party: str, program: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a program that has printed "ready"."""
    pipe = subprocess.PIPE
    process = net.popen(party, [*PYTHON, program, *words], stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(net: Network, party: str, to: str, length: int, times: int) -> list[float]:
    """Return the round-trip times of messages to a server, in seconds, ascending."""
    argv = net.command(party, [*PYTHON, ASK, net.address(to), str(length), str(times)])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return sorted(map(float, done.stdout.split()))


def quickest(net: Network, party: str, to: str, length: int, enough: float) -> float:
    """Return the shortest round-trip time, in seconds; retry up to 30 times on a busy machine."""
    found: list[float] = []
    while len(found) < 30 and min(found, default=enough) >= enough:
        found += ask(net, party, to, length, 3)
    return min(found)


def in_namespaces(inodes: set[int]) -> list[str]:
    """Return the processes whose network namespace is one of these."""
    return [process.name for process in Path("/proc").glob("[0-9]*") if _namespace(process) in inodes]


def _namespace(process: Path) -> int | None:
    try:
        return (process / "ns" / "net").stat().st_ino
    except OSError:  # it has ended
        return None
