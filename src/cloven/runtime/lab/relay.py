"""A process that implements a link with a delay or losses: it forwards packets between two TAP devices.

It is used on kernels without netem. It runs as a separate program that imports nothing of cloven:

    relay.py NAME NAME DELAY RATE LOSS

creates both devices in its own network namespace (the caller moves one into the other party's), prints "ready" and
forwards packets until it is killed, which also removes the devices. DELAY is in seconds, RATE in bits per second, 0
for no limit. A packet leaves DELAY after its last bit would have arrived at that rate. LOSS is the probability with
which each packet is lost, in either direction; a lost packet takes its time on the link too.

TCP passes on packets of several segments at once (IFF_VNET_HDR with segmentation offload), so that a few thousand
wake-ups per second carry any rate. The header that describes them is forwarded unread.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import struct
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic

IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
"""From linux/if_tun.h."""
OFFLOAD = 10
"""The size of the header before each packet, in bytes (struct virtio_net_hdr)."""
LARGEST = OFFLOAD + 14 + 65536
QUEUE = 64 * 2**20
"""The limit of bytes queued in one direction, more than TCP keeps in flight; packets beyond it are dropped."""
WAKING = 0.1e-3
"""Seconds that waking up takes, on arrival and departure; they are subtracted from the delay."""
AT_ONCE = 32
"""The number of packets to read from one side before turning to the other."""


@dataclass
class RelayDirection:
    """One direction: queued packets with their departure times, in seconds of the monotonic clock.

    ``chance`` decides which packets are lost, with the probability ``loss``.
    """

    source: int
    target: int
    loss: float
    chance: Random
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting: int = 0
    free: float = 0.0

    def take(self, delay: float, seconds_per_byte: float) -> None:
        """Read the packets that have arrived."""
        with suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                packet = os.read(self.source, LARGEST)
                if self.waiting + len(packet) > QUEUE:
                    continue
                self.free = max(self.free, monotonic()) + (len(packet) - OFFLOAD) * seconds_per_byte
                if self.chance.random() < self.loss:
                    continue
                self.waiting += len(packet)
                self.queue.append((self.free + delay, packet))

    def give(self) -> None:
        """Write the packets that are due; a device that is down drops them, as a cable would."""
        while self.queue and self.queue[0][0] <= monotonic():
            _, packet = self.queue.popleft()
            self.waiting -= len(packet)
            with suppress(OSError):
                os.write(self.target, packet)


def open_tap(name: str) -> int:
    """Create a TAP device in this process's network namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return fd


def forward(first: RelayDirection, second: RelayDirection, delay: float, rate: int) -> None:
    """Forward packets in both directions, forever."""
    lanes = {lane.source: lane for lane in (first, second)}
    seconds_per_byte = 8 / rate if rate else 0.0
    while True:
        due = min((lane.queue[0][0] for lane in lanes.values() if lane.queue), default=None)
        ready, _, _ = select.select(list(lanes), [], [], None if due is None else max(0.0, due - monotonic()))
        for fd in ready:
            lanes[fd].take(delay, seconds_per_byte)
        for lane in lanes.values():
            lane.give()


def main(first: str, second: str, delay: str, rate: str, loss: str) -> None:
    """Create the devices, print "ready", and forward packets."""
    one, other = open_tap(first), open_tap(second)
    # The same packets are lost in each laboratory, as far as the parties send the same.
    lanes = (
        RelayDirection(one, other, float(loss), Random(first)),
        RelayDirection(other, one, float(loss), Random(second)),
    )
    gc.disable()
    with suppress(OSError):  # take priority over the parties' computation, which would add to the delay
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    forward(*lanes, max(0.0, float(delay) - WAKING), int(rate))


if __name__ == "__main__":
    main(*sys.argv[1:])
