"""Reading pcap and pcapng files, intact and damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import time
from collections import Counter
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.runtime.tap import captures
from cloven.runtime.tap.captures import Tally, packets
from cloven.runtime.tap.flows import survey
from tests.runtime.tap.wire import PREFACE, SETTINGS, capture, data, frame, message, numbers, sent

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
    """Return packets in all three types of blocks, of two interfaces, in two sections, with 7 + 2 dropped."""

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


@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_a_gzipped_file_reads_as_it_would_unpacked(here: Path, name: str) -> None:
    path = capture(here / name, CONTENTS)
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    assert contents(path) == CONTENTS
    path.write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]))
    assert contents(path) == CONTENTS


def test_a_gzipped_file_of_many_sections_is_read_once_through(here: Path) -> None:
    """Seeking back in a gzipped file would unpack it again from the beginning each time."""
    (here / "a.pcapng.gz").write_bytes(gzip.compress(blocks("<") * 20_000))
    tally = Tally()

    start = time.process_time()
    assert len(list(packets(here / "a.pcapng.gz", tally))) == 60_000
    assert time.process_time() - start < 5
    assert tally.dropped == 9 * 20_000


def test_a_gzipped_file_that_is_damaged_is_read_until_there(here: Path) -> None:
    rng = random.Random(0)
    written = [rng.randbytes(1000) for _ in range(100)]
    packed = gzip.compress(capture(here / "a.pcap", written).read_bytes())
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    for content in (packed[: len(packed) // 2], bytes(broken), packed[:-4], packed[:11]):
        (here / "a.pcap").write_bytes(content)
        tally = Tally()
        read = [packet.content for packet in packets(here / "a.pcap", tally)]
        assert len(read) <= 100
        assert tally.damage.startswith(("the compressed data is damaged", "the next bytes", "it ends"))


def test_a_file_that_unpacks_to_too_much_is_read_until_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "UNPACKED", 2**24)
    (here / "a.pcap").write_bytes(gzip.compress(capture(here / "b.pcap", [bytes(60_000)] * 300).read_bytes()))
    tally = Tally()

    assert 200 < sum(1 for _ in packets(here / "a.pcap", tally)) < 300
    assert tally.damage.startswith("it unpacks to more than 16,777,216 bytes")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bzip2", bz2.compress(b"packets")),
        ("xz", lzma.compress(b"packets")),
        ("zstd", b"\x28\xb5\x2f\xfd..."),
        ("LZ4", b"\x04\x22\x4d\x18..."),
        ("zip", b"PK\3\4..."),
    ],
)
def test_a_compressed_file_is_refused_with_its_format(here: Path, name: str, content: bytes) -> None:
    (here / "a.pcap").write_bytes(content)

    with pytest.raises(ClovenError, match=f"is compressed with {name}: unpack it first"):
        contents(here / "a.pcap")
    (here / "a.pcap").write_bytes(gzip.compress(b"text"))
    with pytest.raises(ClovenError, match="neither a pcap nor a pcapng"):
        contents(here / "a.pcap")


@pytest.mark.parametrize("size", [0, 4, 8, 11, 13, 2**24 + 4, 2**31, 2**32 - 4])
@pytest.mark.parametrize("sign", "<>")
def test_a_block_of_an_impossible_length_ends_the_file(here: Path, sign: str, size: int) -> None:
    whole = blocks(sign)
    at = whole.index(b"what is this") - 4
    (here / "a.pcapng").write_bytes(whole[:at] + struct.pack(f"{sign}I", size) + whole[at + 4 :])
    tally = Tally()

    assert [packet.content for packet in packets(here / "a.pcapng", tally)] == [b"fives"]
    assert tally.damage.startswith(f"a block has an invalid size of {size:,} bytes")


def test_statistics_of_many_interfaces_take_no_longer(here: Path) -> None:
    def statistics(interface: int) -> bytes:
        body = struct.pack("<IIIHHQHH", interface, 0, 0, 5, 8, 1, 0, 0)
        size = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", 5) + size + body + size

    (here / "a.pcapng").write_bytes(blocks("<") + b"".join(map(statistics, range(50_000))))
    tally = Tally()

    start = time.process_time()
    list(packets(here / "a.pcapng", tally))
    assert time.process_time() - start < 5
    assert tally.dropped == 7 + 2 - 2 + 50_000


WHOLE = PREFACE + SETTINGS + b"".join(data(message(frame(n, 0, numbers(n, 200)))) for n in range(6))


def seeds(here: Path) -> list[bytes]:
    """Return captures of all kinds, a few kB each."""
    packets_ = sent(WHOLE, 300) + sent(SETTINGS, ports=(7001, 40000), hosts=("fe80::2", "fe80::1"), answer=True)
    tagged = [p[:12] + b"\x81\x00\x00\x07\x88\x47\x00\x01\x01\x40" + p[14:] for p in packets_]
    made = [capture(here / name, packets_).read_bytes() for name in ("a.pcap", "a.pcapng")]
    made += [capture(here / "b.pcap", tagged).read_bytes(), blocks("<"), blocks(">")]
    return [*made, gzip.compress(made[0]), gzip.compress(made[1])]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a capture with a few bytes, fields or pieces changed."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                field = rng.choice((0, 1, 12, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, rng.getrandbits(32)))
                changed[at : at + 4] = field.to_bytes(4, rng.choice(("little", "big")))
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + rng.randrange(1, 200)]
            case 4:
                piece = changed[at : at + rng.randrange(1, 400)]
                to = rng.randrange(len(changed) + 1)
                changed[to:to] = piece
            case _:
                changed[at : at + rng.randrange(1, 20)] = bytes(rng.randrange(20))
    return bytes(changed)


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_captures_are_read_or_refused_in_our_words(here: Path, count: int) -> None:
    kinds, rng, path = seeds(here), random.Random(count), here / "mutated"
    outcomes: Counter[str] = Counter()
    for number in range(count):
        path.write_bytes(mutated(kinds[number % len(kinds)], rng))
        start = time.perf_counter()
        try:
            outcomes["with warnings" if survey(path).warnings else "read"] += 1
        except ClovenError:
            outcomes["refused"] += 1
        assert time.perf_counter() - start < 5, number

    assert min(outcomes[name] for name in ("read", "with warnings", "refused")) > count // 100


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_crash_the_readers(tmp_path_factory: pytest.TempPathFactory, content: bytes, new: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes((blocks("<")[:68] if new else b"\xd4\xc3\xb2\xa1" + bytes(20)) + content)

    assert list(packets(path, Tally())) is not None


def test_a_file_that_is_not_a_capture_is_refused(here: Path) -> None:
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
