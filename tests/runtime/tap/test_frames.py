"""Frames are found in HTTP/2: from the beginning, from the middle, after gaps, and in garbage."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from cloven.runtime.tap.frames import FrameFinder
from cloven.runtime.tap.grpc_messages import Frame
from cloven.runtime.tap.streams import Chunk
from tests.runtime.tap.wire import PREFACE, SESSION, SETTINGS, data, frame, message, numbers

PAYLOADS = [numbers(i, 5_000 * i) for i in range(6)]
FRAMES = [frame(i, 0, payload) for i, payload in enumerate(PAYLOADS)]
HELLO = data(message(b"hello, this is edge0"))


def find(content: bytes, begun: bool, cuts: list[int] | None = None) -> tuple[list[Frame], FrameFinder]:
    """Return the frames found in bytes that arrive in pieces, and the finder."""
    finder = FrameFinder(begun)
    found: list[Frame] = []
    for start, end in pairwise(sorted({0, len(content), *(cuts or range(0, len(content), 1448))})):
        found += finder.add(Chunk(0, memoryview(content)[start:end]))
    return found + finder.finish(), finder


def payloads(frames: list[Frame]) -> list[bytes]:
    return [bytes(found.body) for found in frames]


def one_by_one(frames: list[bytes]) -> bytes:
    """Return each frame in its own DATA frames, as grpc sends them."""
    return b"".join(data(message(content)) for content in frames)


@pytest.mark.parametrize("begin", [PREFACE + SETTINGS, SETTINGS], ids=["client", "server"])
def test_frames_of_a_whole_connection(begin: bytes) -> None:
    found, finder = find(begin + HELLO + one_by_one(FRAMES), begun=True)

    assert payloads(found) == PAYLOADS
    assert [(f.session, f.input, f.ordinal, f.length, f.protected) for f in found] == [
        (SESSION, i, 0, len(payload), False) for i, payload in enumerate(PAYLOADS)
    ]
    assert (finder.http2, finder.preface, finder.tls, finder.cut) == (True, begin != SETTINGS, False, 0)
    assert finder.other == len(message(b"hello, this is edge0"))


def test_a_tag_makes_a_frame_protected() -> None:
    found, _ = find(SETTINGS + HELLO + one_by_one([frame(7, 3, b"cipher", tag=bytes(16))]), begun=True)

    assert [(f.input, f.ordinal, f.length, f.protected, bytes(f.body)) for f in found] == [
        (7, 3, 6, True, b"cipher" + bytes(16))
    ]


def test_a_message_whose_size_contradicts_its_header_is_not_a_frame() -> None:
    odd = [frame(1, 0, b"abcd", tag=bytes(8)), FRAMES[1]]

    found, finder = find(SETTINGS + one_by_one(odd), begun=True)

    assert payloads(found) == PAYLOADS[1:2]
    assert finder.other == 5 + len(odd[0])


@pytest.mark.parametrize("largest", [1, 7, 2**14, 2**24 - 1])
def test_messages_lie_anyhow_in_data_frames(largest: int) -> None:
    sizes = FRAMES if largest > 7 else FRAMES[:1] * 3
    together = b"".join(message(content) for content in [b"hello", b"", *sizes])

    found, finder = find(SETTINGS + data(together, largest=largest), begun=True)

    assert len(found) == len(sizes)
    assert finder.other == 5 + 5 + 5


@given(st.lists(st.integers(0, 200_000), max_size=40), st.booleans())
def test_pieces_may_be_cut_anywhere(cuts: list[int], begun: bool) -> None:
    content = PREFACE + SETTINGS + HELLO + one_by_one(FRAMES)

    found, _ = find(content, begun, [cut % len(content) for cut in cuts])

    assert payloads(found) == PAYLOADS


@given(st.integers(0, 200), st.integers(0, 3))
def test_padding_and_other_frames_between(padding: int, seed: int) -> None:
    between = [
        WindowUpdateFrame(0, window_increment=5).serialize(),
        PingFrame(opaque_data=b"12345678").serialize(),
        b"\0\0\3\xc8\0\0\0\0\0abc",
        data(message(b"control"), stream=3),
        RstStreamFrame(9).serialize(),
    ]
    parts = [
        data(message(content)[i : i + 9000], padding=padding) for content in FRAMES for i in range(0, 10**6, 9000)
    ]
    generator = random.Random(seed)
    mixed = [piece for part in parts for piece in (part, generator.choice(between))]

    for begin, begun in ((SETTINGS, True), (b"", False)):
        found, _ = find(begin + b"".join(mixed) + GoAwayFrame().serialize(), begun)
        assert payloads(found) == PAYLOADS


def test_frames_of_several_streams_are_kept_apart() -> None:
    parts = [data(message(FRAMES[1])[i : i + 999], stream=1) for i in range(0, 21_000, 999)]
    others = [data(message(FRAMES[2])[i : i + 1999], stream=3) for i in range(0, 41_000, 1999)]
    mixed = b"".join(piece for pair in zip(parts, others, strict=False) for piece in pair)

    assert sorted(payloads(find(SETTINGS + mixed, begun=True)[0])) == sorted(PAYLOADS[1:3])


@given(st.integers(0, 300_000))
def test_from_anywhere_in_the_middle_all_later_frames_are_found(start: int) -> None:
    content = HELLO + one_by_one(FRAMES)
    start %= len(content)
    begins = [content.index(data(message(whole))) for whole in FRAMES]

    found, finder = find(content[start:], begun=False)

    assert payloads(found) == [payload for payload, at in zip(PAYLOADS, begins, strict=True) if at >= start]
    assert finder.cut == 0


@given(st.integers(0, 300_000), st.integers(1, 30_000))
def test_a_gap_costs_the_frames_that_it_touches(start: int, lost: int) -> None:
    content = PREFACE + SETTINGS + HELLO + one_by_one(FRAMES)
    start %= len(content) - lost
    begins = [content.index(data(message(whole))) for whole in FRAMES]
    ends = [*begins[1:], len(content)]
    finder = FrameFinder(begun=True)

    found = finder.add(Chunk(0, memoryview(content)[:start]))
    found += finder.add(Chunk(lost, memoryview(content)[start + lost :]))
    found += finder.finish()

    untouched = [end <= start or begin >= start + lost for begin, end in zip(begins, ends, strict=True)]
    assert payloads(found) == [payload for payload, whole in zip(PAYLOADS, untouched, strict=True) if whole]
    # A frame without its first bytes is not recognised.
    assert finder.cut <= untouched.count(False)


def test_a_frame_that_does_not_end_is_counted() -> None:
    content = SETTINGS + one_by_one(FRAMES)

    for missing in (1, 20_000):
        found, finder = find(content[:-missing], begun=True)
        assert (len(found), finder.cut) == (5, 1)
    ended, finder = find(content[:-20_000] + RstStreamFrame(1).serialize(), begun=True)
    assert (len(ended), finder.cut) == (5, 1)


@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_no_bytes_crash_it(content: bytes, begun: bool, http2: bool) -> None:
    found, _ = find((PREFACE + SETTINGS if http2 else b"") + content, begun, [*range(0, 400, 13)])

    assert found == []


@given(st.lists(st.binary(max_size=90), min_size=3, max_size=3), st.booleans())
def test_frames_between_garbage_are_found(garbage: list[bytes], begun: bool) -> None:
    content = b"".join(a + b for a, b in zip(garbage, [*map(data, map(message, FRAMES[1:3])), b""], strict=True))

    found, _ = find(content, begun)

    assert payloads(found) == PAYLOADS[1:3]


@pytest.mark.parametrize("between", [b"", b"clv\x01" * 30, b"\0\0\0\0\0clv\x01" + bytes(48), bytes(5000)])
def test_what_looks_like_the_beginning_of_a_frame_misleads_nobody(between: bytes) -> None:
    inside = frame(1, 0, between + bytes(-len(between) % 4))
    content = between + b"".join(data(message(whole)) + between for whole in (inside, FRAMES[3]))

    found, _ = find(content, begun=False)

    assert [bytes(f.body) for f in found] == [inside[48:], PAYLOADS[3]]


def record(content: bytes) -> bytes:
    return b"\x17\x03\x03" + len(content).to_bytes(2) + content


def test_tls_is_recognised_from_its_beginning_and_from_the_middle() -> None:
    generator = random.Random(0)
    hello = b"\x16\x03\x01\x00\x05\x01\0\0\1\0"
    content = b"".join(record(generator.randbytes(generator.choice([20, 2000, 16_000]))) for _ in range(40))

    for start in (0, 3, 77, 2500, 30_000):
        assert find(content[start:], begun=False)[1].tls
    assert find(hello + content, begun=True)[1].tls


def test_random_bytes_are_neither_tls_nor_http2() -> None:
    for seed in range(20):
        found, finder = find(random.Random(seed).randbytes(200_000), begun=bool(seed % 2))
        assert (found, finder.tls, finder.http2) == ([], False, False)


def test_http2_that_is_not_grpc_is_gone_over() -> None:
    page = data(b"<html>" + bytes(50_000), stream=5)

    found, finder = find(PREFACE + SETTINGS + page + data(message(FRAMES[2])), begun=True)

    assert payloads(found) == [PAYLOADS[2]]
    assert finder.other == 50_006
