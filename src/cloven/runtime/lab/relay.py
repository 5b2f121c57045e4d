"""A process that is a link with a delay: two TAP devices, and every packet of one leaves the other later.

For kernels without netem. Run as a program of its own, with nothing of cloven around it:

    relay.py NAME NAME DELAY RATE

makes both devices in the network namespace where it runs (the caller moves one into the other party's), prints
"ready" and forwards until it is killed; the devices go with it. DELAY is in seconds, RATE in bits per second, 0 for
no limit. A packet leaves DELAY after its last bit would have arrived at that rate.

TCP hands over packets of several segments at once (IFF_VNET_HDR with segmentation offload), so that a
few thousand wake-ups per second carry any rate. The header that says so goes along unread.
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
from time import monotonic

IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
"""From linux/if_tun.h."""
OFFLOAD = 10
"""Bytes of the header before each packet (struct virtio_net_hdr)."""
LARGEST = OFFLOAD + 14 + 65536
QUEUE = 64 * 2**20
"""Most bytes under way in one direction, above what TCP has outstanding; what comes on top is dropped."""
WAKING = 0.1e-3
"""Seconds that waking up takes, on arrival and when due, and that are no part of the delay to wait for."""
AT_ONCE = 32
"""Packets taken from one side before the other's turn."""


@dataclass
class RelayDirection:
    """One direction: packets and when they are due, in seconds of the monotonic clock."""

    source: int
    target: int
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting: int = 0
    free: float = 0.0

    def take(self, delay: float, seconds_per_byte: float) -> None:
        """Read what has arrived."""
        with suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                packet = os.read(self.source, LARGEST)
                if self.waiting + len(packet) > QUEUE:
                    continue
                self.free = max(self.free, monotonic()) + (len(packet) - OFFLOAD) * seconds_per_byte
                self.waiting += len(packet)
                self.queue.append((self.free + delay, packet))

    def give(self) -> None:
        """Write what is due; a device that is down loses it, as a line would."""
        while self.queue and self.queue[0][0] <= monotonic():
            _, packet = self.queue.popleft()
            self.waiting -= len(packet)
            with suppress(OSError):
                os.write(self.target, packet)


def open_tap(name: str) -> int:
    """Make a TAP device in this process's network namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return fd


def forward(first: int, second: int, delay: float, rate: int) -> None:
    """Carry packets both ways, for ever."""
    lanes = {first: RelayDirection(first, second), second: RelayDirection(second, first)}
    seconds_per_byte = 8 / rate if rate else 0.0
    while True:
        due = min((lane.queue[0][0] for lane in lanes.values() if lane.queue), default=None)
        ready, _, _ = select.select(list(lanes), [], [], None if due is None else max(0.0, due - monotonic()))
        for fd in ready:
            lanes[fd].take(delay, seconds_per_byte)
        for lane in lanes.values():
            lane.give()


def main(first: str, second: str, delay: str, rate: str) -> None:
    """Make the devices, say so, and forward."""
    ends = open_tap(first), open_tap(second)
    gc.disable()
    with suppress(OSError):  # before the computing of the parties, or the delay would be theirs as well
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    forward(*ends, max(0.0, float(delay) - WAKING), int(rate))


if __name__ == "__main__":
    main(*sys.argv[1:])
