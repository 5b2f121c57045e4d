"""Record an interface to a pcapng file through Linux's AF_PACKET, without affecting the traffic.

Packets are recorded as the kernel delivers them: on virtual links, and with network cards that merge packets, they
can have 64 KB and more. The kernel counts the packets that it dropped because the tap was too slow; the count is
returned and written to the file.
"""

from __future__ import annotations

import math
import platform
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import addressof, create_string_buffer
from errno import ENETDOWN
from pathlib import Path
from threading import Event
from typing import BinaryIO

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.runtime.tap.captures import BYTE_ORDER, DROPPED, INTERFACE, PACKET, SECTION, STATISTICS, Packet, Tally
from cloven.runtime.tap.packets import ETHERNET, RAW, segment

# From linux/if_packet.h, asm/socket.h and linux/if_arp.h; Python's socket module defines few of them.
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 6, 23, 3
SO_RCVTIMEO, SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 20, 26, 33, 35
ETHER, PPP, RAW_IP, LOOPBACK, NONE = 1, 512, 519, 772, 65534
LINKS = {ETHER: ETHERNET, LOOPBACK: ETHERNET, PPP: RAW, RAW_IP: RAW, NONE: RAW}
"""pcap's link type by the kernel's hardware type; tunnels have none."""
NAME, RESOLUTION = 2, 9
"""pcapng options of an interface."""

WAITING = 2**28
"""The kernel's buffer for packets that are not yet written, in bytes."""
LARGEST = 2**20
"""The buffer for one packet, in bytes; larger packets do not exist."""
HEADS = 128
"""The number of bytes that contain all headers of a packet."""
FILTER = struct.Struct("@HP")
NOTHING = create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0), 8)
"""A filter is a number of instructions and their address; this one accepts 0 bytes of any packet."""
IDLE = 0.1
"""Seconds without a packet after which the tap flushes the file and checks whether to stop."""
BUSY = 0.5
"""Seconds between flushes while packets arrive: a killed tap loses at most this much."""
BLOCK = struct.Struct("<IIIIIII")
"""The header of a packet block in pcapng."""
STAMP = struct.Struct("@ll")
STAMP_ROOM = socket.CMSG_SPACE(STAMP.size)
"""A packet's timestamp in seconds and nanoseconds, and the size of the control message that carries it."""


class RecordingSummary(Document):
    """The counts of a recording.

    Attributes:
        packets: the number of packets in the file.
        bytes: their total size.
        left_out: the number of packets of other ports.
        dropped: the number of packets that the kernel dropped because the tap was too slow.
        seconds: the duration of the recording.
    """

    packets: int
    bytes: int
    left_out: int
    dropped: int
    seconds: float


@contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM was received; only in the main thread."""
    came = Event()
    before = {number: signal.signal(number, lambda *_: came.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def never() -> bool:
    """Return False."""
    return False


def record(
    interface: str,
    out: Path,
    *,
    port: int | None = None,
    seconds: float = math.inf,
    size: float = math.inf,
    stop: Callable[[], bool] = never,
    ready: Callable[[], object] = never,
) -> RecordingSummary:
    """Record an interface until a limit or ``stop``; packets that arrived before are still written.

    Args:
        interface: its name, as in ``ip link``.
        out: the pcapng file; an existing one is replaced.
        port: record only TCP packets from and to this port.
        seconds: stop after this time.
        size: stop after this many bytes of packets.
        stop: returns whether to stop, like an event's ``is_set``; called for every packet and ten times a second.
        ready: called once, when recording has begun.

    Raises:
        ClovenError: if the system is not Linux, the privilege to record is missing, the interface does not exist or
            is down, or the file cannot be written.
    """
    begin = time.monotonic()
    tap, file = _opened(interface, out)
    try:
        with tap, file:
            recorder = _Recorder(tap, file, port)
            ready()
            for count, stamp in _arrivals(
                tap, recorder.room, lambda: stop() or time.monotonic() - begin >= seconds
            ):
                recorder.add(count, stamp)
                if recorder.bytes >= size:
                    break
            recorder.flush(final=True)
    except OSError as error:
        raise ClovenError(f"recording {interface} to {out} failed: {error.strerror}") from error
    lasted = time.monotonic() - begin
    return RecordingSummary(
        packets=recorder.packets,
        bytes=recorder.bytes,
        left_out=recorder.left_out,
        dropped=recorder.dropped,
        seconds=lasted,
    )


def _opened(interface: str, out: Path) -> tuple[socket.socket, BinaryIO]:
    """Open the socket and the file; if either fails, an existing file is left unchanged."""
    problems: list[str] = []
    tap, file, new = None, None, not out.exists()
    try:
        tap = _bound(interface)
    except ClovenError as error:
        problems += error.problems
    try:
        file = out.open("wb" if tap else "ab", buffering=2**20)
    except OSError as error:
        problems.append(f"cannot write {out}: {error.strerror}")
    if tap and file:
        return tap, file
    if tap:
        tap.close()
    if file:
        file.close()
        if new:
            out.unlink()
    raise ClovenError(problems)


def _bound(interface: str) -> socket.socket:
    """Return a socket that receives all packets of an interface."""
    if not hasattr(socket, "AF_PACKET"):
        raise ClovenError(f"recording requires Linux, this system is {platform.system()}; use tcpdump -w instead")
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise ClovenError(f"there is no interface {interface!r}; expected one of {', '.join(names)}")
    try:
        # Protocol 0: the socket receives nothing before it is bound to its interface.
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise ClovenError(f"recording {interface} requires CAP_NET_RAW: run it as root") from error
    try:
        _prepared(tap, interface)
    except BaseException:
        tap.close()
        raise
    return tap


def _prepared(tap: socket.socket, interface: str) -> None:
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WAITING)
    with suppress(PermissionError):
        # Exceed the system's limit, which requires CAP_NET_ADMIN.
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVTIMEO, STAMP.pack(0, int(IDLE * 1e6)))
    tap.bind((interface, ETH_P_ALL))
    if tap.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ENETDOWN:
        raise ClovenError(f"interface {interface} is down; run: ip link set {interface} up")
    hardware = tap.getsockname()[3]
    if hardware not in LINKS:
        raise ClovenError(
            f"interface {interface} has hardware type {hardware}; expected one of {', '.join(map(str, LINKS))}"
        )
    if hardware == LOOPBACK:
        # On loopback, every packet occurs twice: outgoing and incoming.
        tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)


def _arrivals(tap: socket.socket, room: memoryview, over: Callable[[], bool]) -> Iterator[tuple[int, int]]:
    """Yield the size of each packet in `room` and its time in ns since 1970; (0, 0) when idle."""
    flags = 0
    while True:
        if not flags and over():
            # Stop the queue from growing; the packets that wait are still read.
            tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, FILTER.pack(1, addressof(NOTHING)))
            flags = socket.MSG_DONTWAIT
        try:
            count, extra, _, _ = tap.recvmsg_into([room], STAMP_ROOM, flags)
        except BlockingIOError:
            if flags:
                return
            yield 0, 0
            continue
        except OSError as error:
            # An interface that is down may come up again; a removed one does not.
            if error.errno != ENETDOWN:
                raise
            if tap.getsockname()[0] not in (name for _, name in socket.if_nameindex()):
                return
            continue
        seconds, nanoseconds = STAMP.unpack(extra[0][2])
        yield count, seconds * 10**9 + nanoseconds


class _Recorder:
    """Writes packets as pcapng blocks, each in one call: its head, packet and end share a buffer."""

    def __init__(self, tap: socket.socket, file: BinaryIO, port: int | None) -> None:
        name, _, _, hardware, _ = tap.getsockname()
        self.packets = self.bytes = self.left_out = self.dropped = 0
        self._tap, self._file, self._port, self._link = tap, file, port, LINKS[hardware]
        self._buffer = memoryview(bytearray(BLOCK.size + LARGEST + 8))
        self.room = self._buffer[BLOCK.size : BLOCK.size + LARGEST]
        self._flushed = 0
        self._tally = Tally()
        file.write(_head(name, self._link))
        self.flush()

    def add(self, count: int, stamp: int) -> None:
        """Write the packet in `room`; without one, flush the file."""
        if not count or stamp - self._flushed > BUSY * 1e9:
            self._flushed = stamp
            self.flush()
        if not self._wanted(count):
            self.left_out += count > 0
            return
        padding = -count % 4
        size = BLOCK.size + count + padding + 4
        BLOCK.pack_into(self._buffer, 0, PACKET, size, 0, *divmod(stamp, 2**32), count, count)
        self._buffer[size - 4 - padding : size] = bytes(padding) + size.to_bytes(4, "little")
        self._file.write(self._buffer[:size])
        self.packets += 1
        self.bytes += count

    def flush(self, final: bool = False) -> None:
        """Flush the file, and write the count of dropped packets if it has changed or this is the end."""
        # The kernel resets the count on every read.
        statistics = self._tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        dropped = struct.unpack("=4xI", statistics)[0]
        self.dropped += dropped
        if dropped or final:
            self._file.write(_statistics(self.dropped))
        self._file.flush()

    def _wanted(self, count: int) -> bool:
        """Return whether the packet in `room` belongs to the port."""
        if self._port is None or not count:
            return count > 0
        found = segment(Packet(self._link, count, bytes(self.room[: min(count, HEADS)])), self._tally)
        return found is not None and self._port in struct.unpack(">HH", found.flow[-4:])


def _head(name: str, link: int) -> bytes:
    """Return the beginning of the file: a section, and one interface with timestamps in nanoseconds."""
    section = SECTION + struct.pack("<IIHHqI", 28, BYTE_ORDER, 1, 0, -1, 28)
    text = name.encode()
    options = struct.pack("<HH", NAME, len(text)) + text + bytes(-len(text) % 4)
    options += struct.pack("<HHB3xHH", RESOLUTION, 1, 9, 0, 0)
    size = 20 + len(options)
    return section + struct.pack("<IIHHI", INTERFACE, size, link, 0, 0) + options + struct.pack("<I", size)


def _statistics(dropped: int) -> bytes:
    """Return the block with the number of dropped packets."""
    high, low = divmod(time.time_ns(), 2**32)
    return struct.pack("<IIIIIHHQII", STATISTICS, 40, 0, high, low, DROPPED, 8, dropped, 0, 40)
