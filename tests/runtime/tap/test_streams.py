"""Bytes are returned in order, whatever the order of the recorded packets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.runtime.tap import streams
from cloven.runtime.tap.packets import TcpSegment
from cloven.runtime.tap.streams import TcpStream, reassemble, reverse
from tests.runtime.tap.wire import ACK, FIN, SYN

FLOW = bytes(range(12))


def part(sequence: int, data: bytes = b"", flags: int = ACK) -> TcpSegment:
    return TcpSegment(FLOW, sequence % 2**32, flags, memoryview(data))


def together(segments: list[TcpSegment]) -> tuple[bytes, TcpStream]:
    """Return all bytes, with a dot for every lost one, and the last stream."""
    content, stream = b"", None
    for stream, chunk in reassemble(segments):  # noqa: B007
        content += b"." * chunk.lost + bytes(chunk.data)
    assert stream
    return content, stream


@st.composite
def recorded(draw: st.DrawFn) -> tuple[bytes, list[TcpSegment]]:
    """Draw some bytes and a recording of them: cut anywhere, overlapping, retransmitted, out of order."""
    content = draw(st.binary(min_size=1, max_size=300))
    begin = draw(st.sampled_from([1, 2**31 - 20, 2**32 - 30, 2**32 - 1])) + 1
    cuts = sorted({0, len(content), *draw(st.lists(st.integers(0, len(content)), max_size=20))})
    pieces = list(pairwise(cuts)) + draw(st.lists(st.sampled_from(list(pairwise(cuts))), max_size=5))
    more = draw(st.lists(st.integers(0, 9), min_size=len(pieces), max_size=len(pieces)))
    pieces = [(max(0, start - extra), end) for (start, end), extra in zip(pieces, more, strict=True)]
    window = draw(st.integers(1, 12))
    noise = draw(st.lists(st.integers(0, window - 1), min_size=len(pieces), max_size=len(pieces)))
    order = sorted(range(len(pieces)), key=lambda i: i + noise[i])
    return content, [part(begin + a, content[a:b]) for a, b in (pieces[i] for i in order)]


@given(recorded())
def test_any_recording_with_its_beginning_is_put_together(case: tuple[bytes, list[TcpSegment]]) -> None:
    content, segments = case
    first = min(segments, key=lambda s: (s.sequence - segments[0].sequence + 2**31) % 2**32).sequence

    found, stream = together([part(first - 1, flags=SYN), *segments])

    assert found == content
    assert (stream.begun, stream.client, stream.bytes, stream.lost) == (True, True, len(content), 0)
    assert stream.repeated == sum(len(s.data) for s in segments) - len(content)
    assert stream.packets == 1 + len(segments)


@given(recorded())
def test_any_recording_from_the_middle_is_put_together(case: tuple[bytes, list[TcpSegment]]) -> None:
    content, segments = case

    found, stream = together(segments)

    assert found == content
    assert (stream.begun, stream.client, stream.gaps) == (False, None, 0)


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[bytes, list[TcpSegment]]:
    """Draw the segments of a complete connection in any order, some of them twice or missing."""
    content = draw(st.binary(min_size=1, max_size=300))
    begin = draw(st.sampled_from([1, 2**31 - 20, 2**32 - 30, 2**32 - 1])) + 1
    cuts = sorted({0, len(content), *draw(st.lists(st.integers(0, len(content)), max_size=20))})
    pieces = draw(st.lists(st.sampled_from(list(pairwise(cuts))), max_size=30))
    found = bytearray(b"." * len(content))
    for a, b in pieces:
        found[a:b] = content[a:b]
    ends = [part(begin - 1, flags=SYN), part(begin + len(content), flags=ACK | FIN)]
    return bytes(found), draw(st.permutations([*ends, *(part(begin + a, content[a:b]) for a, b in pieces)]))


@given(shuffled())
def test_any_order_has_the_same_bytes_and_the_same_counts(case: tuple[bytes, list[TcpSegment]]) -> None:
    """The counts are correct: bytes in none of the segments are missing, bytes in several are repeated."""
    expected, segments = case

    found, stream = together(segments)

    assert found == expected
    sizes = sum(len(s.data) for s in segments)
    assert stream.lost == _dots(segments)
    assert (stream.begun, stream.late, stream.bytes) == (True, 0, len(expected) - stream.lost)
    assert stream.repeated == sizes - stream.bytes


def _dots(segments: list[TcpSegment]) -> int:
    """Return the number of bytes of a connection that are missing from all segments."""
    begin = next(s.sequence for s in segments if s.flags & SYN) + 1
    places = {(s.sequence - begin) % 2**32 + i for s in segments for i in range(len(s.data))}
    end = next((s.sequence - begin) % 2**32 for s in segments if s.flags & FIN)
    return len(set(range(end)) - places)


@given(shuffled())
def test_what_comes_too_late_is_not_counted_as_missing(case: tuple[bytes, list[TcpSegment]]) -> None:
    _, segments = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "HELD", 1200)
        heard = {id(stream): stream for stream, _ in reassemble(segments)}

    assert sum(stream.bytes + stream.late + stream.repeated for stream in heard.values()) == sum(
        len(s.data) for s in segments
    )
    if len(heard) == 1 and all(stream.begun for stream in heard.values()):
        (stream,) = heard.values()
        assert stream.lost == _dots(segments)
        assert stream.gaps <= stream.lost


def test_a_gap_that_is_filled_late_in_its_middle_leaves_two() -> None:
    stream = TcpStream(part(0, flags=SYN))
    for segment in (part(0, flags=SYN), part(11, b"kl"), part(21, b"uv")):
        stream.add(segment)
    assert [(chunk.lost, bytes(chunk.data)) for chunk in stream.release()] == [(10, b"kl"), (8, b"uv")]
    assert (stream.gaps, stream.lost, stream.late) == (2, 18, 0)

    stream.add(part(4, b"de"))
    assert (stream.gaps, stream.lost, stream.late, stream.repeated) == (3, 16, 2, 0)
    stream.add(part(1, b"abcdefghijkl"))
    assert (stream.gaps, stream.lost, stream.late, stream.repeated) == (1, 8, 10, 4)
    stream.add(part(10, b"jklmnopqrstuvwx"))
    assert (stream.gaps, stream.lost, stream.late, stream.repeated) == (0, 0, 18, 9)
    assert stream.bytes == 6


def test_bytes_come_as_soon_as_they_are_in_order() -> None:
    stream = TcpStream(part(9, flags=SYN))

    assert not stream.add(part(9, flags=SYN))
    assert [bytes(chunk.data) for chunk in stream.add(part(10, b"ab"))] == [b"ab"]
    assert not stream.add(part(14, b"ef"))
    assert [bytes(chunk.data) for chunk in stream.add(part(12, b"cd"))] == [b"cd", b"ef"]


def test_missing_bytes_are_reported_and_counted() -> None:
    found, stream = together([part(0, flags=SYN), part(1, b"ab"), part(6, b"fg"), part(11, flags=ACK | FIN)])

    assert found == b"ab...fg..."
    assert (stream.gaps, stream.lost, stream.bytes) == (2, 6, 4)


def test_what_is_missing_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HELD", 100_000)
    read = []

    def recorded() -> Iterator[TcpSegment]:
        for segment in (part(0, flags=SYN), *(part(2 + i * 1000, bytes(1000)) for i in range(100))):
            read.append(segment)
            yield segment

    told = [(len(read), chunk) for _, chunk in reassemble(recorded())]

    assert [chunk.lost for _, chunk in told[:2]] == [1, 0]
    assert 60 <= told[0][0] < 70
    assert sum(len(chunk.data) for _, chunk in told) == 100_000


def test_the_largest_waiting_stream_is_released_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HELD", 100_000)
    small = [
        TcpSegment(FLOW[::-1], at, flags, memoryview(text)) for at, flags, text in ((0, SYN, b""), (3, ACK, b"cd"))
    ]
    large = [part(0, flags=SYN), *(part(2 + i * 1000, bytes(1000)) for i in range(100))]
    end = TcpSegment(FLOW[::-1], 1, ACK, memoryview(b"ab"))

    heard = {stream.flow: stream for stream, _ in reassemble([*small, *large, end])}

    assert (heard[FLOW].lost, heard[FLOW[::-1]].lost, heard[FLOW[::-1]].late) == (1, 0, 0)


def test_the_end_of_a_connection_is_not_a_gap() -> None:
    _, stream = together([part(0, flags=SYN), part(1, b"ab"), part(3, flags=ACK | FIN), part(4)])

    assert stream.gaps == 0


def test_keeping_a_connection_alive_brings_no_bytes() -> None:
    found, _ = together([part(0, flags=SYN), part(1, b"ab"), part(2), part(2, b"\0"), part(3, b"cd")])

    assert found == b"abcd"


def test_ports_are_used_again() -> None:
    first, second = b"first", b"second"
    segments = [part(0, flags=SYN), part(1, first), part(10**9, flags=SYN), part(10**9, flags=SYN)]

    heard = [(id(stream), bytes(chunk.data)) for stream, chunk in reassemble([*segments, part(10**9 + 1, second)])]

    assert [content for _, content in heard if content] == [first, second]
    assert len({stream for stream, _ in heard}) == 2


def test_a_segment_from_far_away_is_of_another_connection() -> None:
    segments = [part(0, flags=SYN), part(1, b"one"), part(2**31 + 5, b"two")]

    assert len({id(stream) for stream, _ in reassemble(segments)}) == 2
    assert together(segments)[0] == b"onetwo"


def test_the_client_of_a_connection_is_known() -> None:
    for flags, client in ((SYN, True), (SYN | ACK, False), (ACK, None)):
        assert together([part(0, flags=flags), part(1, b"a")])[1].client is client


def test_the_other_direction() -> None:
    assert reverse(b"AAAABBBBaabb"[:12]) == b"BBBBAAAAbbaa"
    assert reverse(reverse(bytes(range(36)))) == bytes(range(36))
