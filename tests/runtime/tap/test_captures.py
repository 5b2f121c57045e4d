"""Files of both formats, and what is done about damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.runtime.tap.captures import Tally, packets
from tests.runtime.tap.wire import capture

CONTENTS = [bytes([i]) * (60 + i) for i in range(20)]


def contents(path: Path) -> list[bytes]:
    return [packet.content for packet in packets(path, Tally())]


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("sign", "<>")
def test_pcap_of_either_order_and_resolution(here: Path, sign: str, nano: bool) -> None:
    magic = dpkt.pcap.TCPDUMP_MAGIC_NANO if nano else dpkt.pcap.TCPDUMP_MAGIC
    head = struct.pack(f"{sign}IHHiIII", magic, 2, 4, 0, 0, 65535, 1 | 0x4000_0000)
    body = (
        struct.pack(f"{sign}IIII", 1, 10**6 * (1000 if nano else 1) - 1, len(c), len(c) + 5) + c for c in CONTENTS
    )
    (here / "a.pcap").write_bytes(head + b"".join(body))

    read = list(packets(here / "a.pcap", Tally()))

    assert [packet.content for packet in read] == CONTENTS
    assert {(packet.link, packet.size - len(packet.content)) for packet in read} == {(1, 5)}


def blocks(sign: str) -> bytes:
    """Packets in all three kinds of blocks, of two interfaces, in two sections, and 7 + 2 dropped."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(f"{sign}I", len(body) + 12)
        return struct.pack(f"{sign}I", kind) + size + body + size

    def section(*links: int) -> bytes:
        begin = block(0x0A0D0D0A, struct.pack(f"{sign}IHHq", 0x1A2B3C4D, 1, 0, -1))
        return begin + b"".join(block(1, struct.pack(f"{sign}HHI", link, 0, 0)) for link in links)

    def statistics(interface: int, dropped: int) -> bytes:
        options = struct.pack(f"{sign}HH4sHHQHH", 1, 3, b"abc\0", 5, 8, dropped, 0, 0)
        return block(5, struct.pack(f"{sign}III", interface, 0, 0) + options)

    enhanced = block(6, struct.pack(f"{sign}IIIII", 1, 0, 0, 5, 9) + b"fives" + bytes(3) + b"\0\0\0\0")
    simple = block(3, struct.pack(f"{sign}I", 6) + b"simple")
    old = block(2, struct.pack(f"{sign}HHIIII", 0, 0, 0, 0, 3, 3) + b"old")
    unknown = block(77, b"what is this")
    first = section(1, 113) + enhanced + unknown + statistics(0, 3) + statistics(1, 3) + statistics(0, 4)
    return first + section(101) + simple + old + statistics(0, 2)


@pytest.mark.parametrize("sign", "<>")
def test_pcapng_has_sections_interfaces_and_three_kinds_of_packets(here: Path, sign: str) -> None:
    (here / "a.pcapng").write_bytes(blocks(sign))
    tally = Tally()

    read = [tuple(packet) for packet in packets(here / "a.pcapng", tally)]

    assert read == [(113, 9, b"fives"), (101, 6, b"simple"), (101, 3, b"old")]
    assert tally.dropped == 3 + 4 + 2
    assert "dropped 9 packets" in tally.warnings()[0]


@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_a_file_that_dpkt_wrote_reads_the_same(here: Path, name: str) -> None:
    assert contents(capture(here / name, CONTENTS)) == CONTENTS


@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_a_file_cut_anywhere_is_read_until_there(here: Path, name: str) -> None:
    whole = capture(here / name, CONTENTS).read_bytes()
    for size in range(60, len(whole), 17):
        (here / name).write_bytes(whole[:size])
        tally = Tally()
        read = [packet.content for packet in packets(here / name, tally)]
        assert read == CONTENTS[: len(read)]
        assert len(read) < len(CONTENTS)
        assert not tally.damage or f"after {len(read)} packets" in tally.damage


@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_a_file_damaged_in_the_middle_is_read_until_there(here: Path, name: str) -> None:
    path = capture(here / name, CONTENTS)
    whole = path.read_bytes()
    at = whole.index(CONTENTS[10]) - 8
    path.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    tally = Tally()

    assert [packet.content for packet in packets(path, tally)] == CONTENTS[:10]
    assert "after 10 packets" in tally.damage
    assert "damaged" in tally.warnings()[0]


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_crash_the_readers(tmp_path_factory: pytest.TempPathFactory, content: bytes, new: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes((blocks("<")[:68] if new else b"\xd4\xc3\xb2\xa1" + bytes(20)) + content)

    assert list(packets(path, Tally())) is not None


def test_what_is_no_capture_is_said(here: Path) -> None:
    (here / "text").write_bytes(b"hello")
    (here / "empty").write_bytes(b"")

    with pytest.raises(
        ClovenError, match=r"neither a pcap nor a pcapng file: it begins with the bytes 68 65 6c 6c"
    ):
        contents(here / "text")
    with pytest.raises(ClovenError, match="it is empty"):
        contents(here / "empty")
    with pytest.raises(ClovenError, match=r"cannot read .*gone: No such file"):
        contents(here / "gone")
    with pytest.raises(ClovenError, match="cannot read"):
        contents(here)
