"""Read the packets of pcap and pcapng files: any byte order, several sections and interfaces, also gzipped.

Common readers report neither the length of a packet before a snap length cut it, nor a second interface, nor the
place where a file is damaged.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cloven.errors import ClovenError
from cloven.files import open_regular

LARGEST = 2**24
"""The largest packet or block, in bytes; a larger one indicates damage. The largest packets (BIG TCP) have 2^19."""
PCAP = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}
"""The magic numbers of pcap files, and the resolution of their timestamps, per second."""
SECTION = b"\x0a\x0d\x0d\x0a"
BYTE_ORDER = 0x1A2B3C4D
"""The first bytes of a pcapng file, and the number that shows the byte order of a section."""
INTERFACE, OLD_PACKET, SIMPLE_PACKET, STATISTICS, PACKET = 1, 2, 3, 5, 6
"""Block types of pcapng."""
DROPPED = 5
"""The pcapng option for the number of dropped packets in an interface's statistics."""
SMALLEST = {INTERFACE: 8, OLD_PACKET: 20, SIMPLE_PACKET: 4, PACKET: 20, STATISTICS: 12}
"""The smallest sizes of the blocks that are read, in bytes."""
CUT = "it ends in the middle of a packet"
GZIP = b"\x1f\x8b"
UNPACKED = 2**34
"""The most bytes that are read from a gzipped file: a small file can unpack to any size."""
PACKED = {
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "LZ4",
    b"PK\3\4": "zip",
}
"""The first bytes of unsupported compressed files."""


class Packet(NamedTuple):
    """A recorded packet.

    Attributes:
        link: the link type, as pcap's number.
        size: the size of the packet on the link, in bytes.
        content: the recorded bytes.
    """

    link: int
    size: int
    content: bytes


@dataclass
class Tally:
    """The counts of packets in a file.

    Attributes:
        packets: all packets.
        other: packets other than TCP over IP.
        tunnels: tunnelled packets, which are not decoded, by the tunnel's name.
        truncated: TCP packets that were recorded in part.
        fragments: IP fragments, which are not reassembled.
        unknown: packets of unknown link types, by pcap's number.
        dropped: packets that the recorder missed, by its own count.
        damage: why and where reading stopped early; empty if it did not.
    """

    packets: int = 0
    other: int = 0
    tunnels: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    fragments: int = 0
    unknown: Counter[int] = field(default_factory=Counter)
    dropped: int = 0
    damage: str = ""

    def warnings(self) -> list[str]:
        """Return the reasons why the other numbers may be incomplete."""
        said = (
            (self.damage, f"the file is damaged; packets after this point were not read: {self.damage}"),
            (self.dropped, f"the recorder dropped {self.dropped:,} packets: record less at a time"),
            (self.truncated, f"{self.truncated:,} packets were recorded in part: record without a snap length"),
            (self.fragments, f"{self.fragments:,} IP fragments were skipped: they are not reassembled"),
            (
                self.tunnels,
                f"{self.tunnels.total():,} tunnelled packets were skipped "
                f"({', '.join(f'{name} {count:,}' for name, count in sorted(self.tunnels.items()))}): "
                "record inside the tunnel",
            ),
            (
                self.unknown,
                f"{self.unknown.total():,} packets of unknown link types {sorted(self.unknown)} were skipped",
            ),
        )
        return [sentence for there, sentence in said if there]


class Damaged(Exception):  # noqa: N818
    """The file violates its format."""


def packets(path: Path, tally: Tally) -> Iterator[Packet]:
    """Yield the packets of a capture in the order recorded, until the end or the first damage.

    Args:
        path: a pcap or pcapng file, optionally gzipped.
        tally: updated with `packets`, `dropped` and `damage`.

    Raises:
        ClovenError: if the file cannot be read or has another format.
    """
    try:
        with _content(path) as file:
            try:
                for packet in _begun(file, path, tally):
                    tally.packets += 1
                    yield packet
            except Damaged as error:
                tally.damage = f"{error} (byte {file.tell():,}, after {tally.packets:,} packets)"
    except OSError as error:
        raise ClovenError(f"cannot read {path}: {error.strerror or error}") from error


def _content(path: Path) -> BinaryIO:
    """Open the file with a large buffer; gzipped content is unpacked."""
    file = open_regular(path)
    packed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    return io.BufferedReader(_Unpacked(file) if packed else file, 2**20)  # type: ignore[type-var]


class _Unpacked(io.RawIOBase):
    """The content of a gzipped file, at most `UNPACKED` bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._packed, self._file = file, gzip.GzipFile(fileobj=file)
        self._left = UNPACKED

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return UNPACKED - self._left

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._file.read1(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Damaged("the compressed data is damaged or truncated") from error
        self._left -= len(data)
        if self._left < 0:
            raise Damaged(f"it unpacks to more than {UNPACKED:,} bytes: unpack and split it")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        self._packed.close()
        super().close()


def _begun(file: BinaryIO, path: Path, tally: Tally) -> Iterator[Packet]:
    """Return the packets, in the format that the file's first bytes show."""
    magic = file.read(4)
    if magic == SECTION:
        return _pcapng(file, tally)
    for sign in "<>":
        (number,) = struct.unpack(f"{sign}I", magic.ljust(4, b"\0"))
        if number in PCAP:
            return _pcap(file, sign, PCAP[number])
    for begins, name in PACKED.items():
        if magic.startswith(begins):
            raise ClovenError(f"{path} is compressed with {name}: unpack it first (only gzip is read directly)")
    begins_with = f"begins with the bytes {magic.hex(' ')}" if magic else "is empty"
    raise ClovenError(f"{path} is neither a pcap nor a pcapng file: it {begins_with}")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise Damaged(CUT)
    return data


def _pcap(file: BinaryIO, sign: str, fractions: int) -> Iterator[Packet]:
    # The upper half of the link type is the length of the checksums after packets.
    link = struct.unpack(f"{sign}16xI", _read(file, 20))[0] & 0xFFFF
    layout = struct.Struct(f"{sign}4xIII")
    while head := file.read(16):
        if len(head) < 16:
            raise Damaged(CUT)
        fraction, caught, size = layout.unpack(head)
        if caught > LARGEST or fraction >= fractions:
            raise Damaged("the next bytes are not a packet")
        yield Packet(link, size, _read(file, caught))


def _pcapng(file: BinaryIO, tally: Tally) -> Iterator[Packet]:
    """Yield the packets of a file of which the first four bytes were already read."""
    links: list[int] = []
    dropped: dict[int, int] = {}
    sign = "<"
    head = SECTION + file.read(4)
    while head:
        mark = b""
        if head[:4] == SECTION:
            mark = _read(file, 4)
            sign = _sign(mark)
            links, dropped = [], {}
        kind, body = _block(file, head, sign, mark)
        if kind == PACKET:
            interface, caught, size = struct.unpack_from(f"{sign}I8xII", body)
            yield _packet(links, interface, size, body, 20, caught)
        elif kind == INTERFACE:
            links.append(*struct.unpack_from(f"{sign}H", body))
        elif kind == SIMPLE_PACKET:
            (size,) = struct.unpack_from(f"{sign}I", body)
            yield _packet(links, 0, size, body, 4, min(size, len(body) - 4))
        elif kind == OLD_PACKET:
            interface, caught, size = struct.unpack_from(f"{sign}H10xII", body)
            yield _packet(links, interface, size, body, 20, caught)
        elif kind == STATISTICS:
            (interface,) = struct.unpack_from(f"{sign}I", body)
            # A later count of the same interface includes the earlier one.
            tally.dropped -= dropped.get(interface, 0)
            dropped[interface] = _dropped(body, sign)
            tally.dropped += dropped[interface]
        head = file.read(8)


def _sign(mark: bytes) -> str:
    """Return the byte order of a section, from the mark at its beginning."""
    for sign in "<>":
        if struct.pack(f"{sign}I", BYTE_ORDER) == mark:
            return sign
    raise Damaged("a section does not state its byte order")


def _block(file: BinaryIO, head: bytes, sign: str, begun: bytes) -> tuple[int, bytes]:
    """Return a block's type and content; ``begun`` is the content that was read with the head."""
    if len(head) < 8:
        raise Damaged(CUT)
    kind, size = struct.unpack(f"{sign}II", head)
    if not 12 <= size <= LARGEST or size % 4:
        raise Damaged(f"a block has an invalid size of {size:,} bytes")
    body = begun + _read(file, size - 8 - len(begun))
    if body[-4:] != head[4:] or len(body) - 4 < SMALLEST.get(kind, 0):
        raise Damaged("a block does not match its size")
    return kind, body[:-4]


def _packet(links: list[int], interface: int, size: int, body: bytes, start: int, caught: int) -> Packet:
    """Return the packet within a block."""
    if interface >= len(links):
        raise Damaged(f"a packet belongs to interface {interface}, which is not described")
    if start + caught > len(body):
        raise Damaged("a packet is longer than its block")
    return Packet(links[interface], size, body[start : start + caught])


def _dropped(body: bytes, sign: str) -> int:
    """Return the number of dropped packets in an interface's statistics."""
    at = 12
    while at + 12 <= len(body):
        code, size = struct.unpack_from(f"{sign}HH", body, at)
        if code == DROPPED and size == 8:
            return int(struct.unpack_from(f"{sign}Q", body, at + 4)[0])
        at += 4 + (size + 3) // 4 * 4
    return 0
