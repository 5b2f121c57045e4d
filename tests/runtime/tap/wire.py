"""Build traffic with independent libraries: packets with dpkt, HTTP/2 with hyperframe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

import dpkt
import numpy as np
from hyperframe.frame import DataFrame, SettingsFrame

from cloven.runtime.link.session import LAYOUT, MAGIC
from cloven.runtime.tap.captures import Packet, Tally
from cloven.runtime.tap.packets import TcpSegment, segment

SESSION = bytes(range(16))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: bytes = SettingsFrame(settings={3: 100, 4: 65535}).serialize()
CLIENT, SERVER, PORT, EPHEMERAL = "10.0.0.1", "10.0.0.2", 7001, 40000
SYN, ACK, FIN, RST, PUSH = 2, 16, 1, 4, 8


def frame(number: int, ordinal: int, payload: bytes, tag: bytes = b"", session: bytes = SESSION) -> bytes:
    """Return a cloven frame; with a tag, it looks protected."""
    return LAYOUT.pack(MAGIC, ordinal, session, 0, number, len(payload)) + payload + tag


def message(content: bytes) -> bytes:
    """Return a gRPC message."""
    return b"\0" + len(content).to_bytes(4) + content


def data(content: bytes, stream: int = 1, largest: int = 2**14, padding: int | None = None) -> bytes:
    """Return DATA frames."""
    parts = [content[i : i + largest] for i in range(0, len(content), largest)]
    flags = () if padding is None else ("PADDED",)
    made = (DataFrame(stream, part, pad_length=padding or 0, flags=flags) for part in parts)
    return b"".join(one.serialize() for one in made)


def numbers(seed: int, count: int) -> bytes:
    """Return a payload of float32 numbers, many of them zero as after a ReLU."""
    return np.maximum(np.random.default_rng(seed).normal(size=count), 0).astype("<f4").tobytes()


def ip(
    content: bytes,
    sequence: int,
    flags: int = ACK,
    ports: tuple[int, int] = (EPHEMERAL, PORT),
    hosts: tuple[str, str] = (CLIENT, SERVER),
) -> bytes:
    """Return an IP packet, version 4 or 6 by its hosts."""
    tcp = dpkt.tcp.TCP(sport=ports[0], dport=ports[1], seq=sequence % 2**32, flags=flags, data=content)
    source, target = (ip_address(host).packed for host in hosts)
    if len(source) == 4:
        return bytes(dpkt.ip.IP(src=source, dst=target, p=6, data=tcp, len=20 + len(tcp)))
    return bytes(dpkt.ip6.IP6(src=source, dst=target, nxt=6, plen=len(tcp), data=tcp))


def ethernet(packet: bytes) -> bytes:
    """Return an Ethernet frame."""
    return bytes(12) + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def sent(
    content: bytes,
    size: int = 1448,
    begin: int | None = 1000,
    ports: tuple[int, int] = (EPHEMERAL, PORT),
    hosts: tuple[str, str] = (CLIENT, SERVER),
    answer: bool = False,
) -> list[bytes]:
    """Return the packets of one direction, with SYN (SYN and ACK for an answer) unless ``begin`` is None."""
    first = 5000 if begin is None else begin
    opening = [] if begin is None else [ip(b"", first - 1, SYN | (ACK if answer else 0), ports, hosts)]
    parts = (ip(content[i : i + size], first + i, ACK, ports, hosts) for i in range(0, len(content), size))
    return [ethernet(packet) for packet in (*opening, *parts)]


def capture(path: Path, packets: Iterable[bytes], link: int = dpkt.pcap.DLT_EN10MB) -> Path:
    """Write a file with dpkt, in the format of its name."""
    with path.open("wb") as file:
        kind = dpkt.pcapng if path.suffix == ".pcapng" else dpkt.pcap
        writer = kind.Writer(file, snaplen=2**18, linktype=link)
        for i, packet in enumerate(packets):
            writer.writepkt(packet, ts=1e9 + i)
    return path


def found(packets: Sequence[bytes], link: int = dpkt.pcap.DLT_EN10MB) -> list[TcpSegment]:
    """Return the segments of packets."""
    segments = (segment(Packet(link, len(packet), packet), Tally()) for packet in packets)
    return [one for one in segments if one]
