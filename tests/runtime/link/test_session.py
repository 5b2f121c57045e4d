"""Frames: they open unchanged and in order; all others are refused and counted, without other effects."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.runtime.link.ciphers import CIPHERS, Cipher
from cloven.runtime.link.errors import FrameRefused, LinkError, Reason, SessionExhausted
from cloven.runtime.link.handshake import initiator_finish, initiator_start, prologue, responder_reply
from cloven.runtime.link.session import HEADER, LAYOUT, MAGIC, FrameLimits, Opener, Sealer, directions

KEY = bytes(range(200, 232))
ID = bytes(range(16))
INPUT = 5
PROTECTIONS: dict[str, Cipher | None] = {"none": None, **CIPHERS}


def pair(cipher: Cipher | None, limits: FrameLimits | None = None) -> tuple[Sealer, Opener]:
    return Sealer(ID, cipher, KEY, limits), Opener(ID, cipher, KEY, limits)


def opened(opener: Opener, frame: bytes | bytearray) -> tuple[int, bytes]:
    number, ordinal, payload = opener.open(frame)
    assert number == INPUT
    return ordinal, bytes(payload)


def refused(opener: Opener, frame: bytes | bytearray) -> Reason:
    with pytest.raises(FrameRefused) as caught:
        opener.open(frame)
    assert KEY.hex() not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("cipher", PROTECTIONS.values(), ids=PROTECTIONS)
def test_what_arrives_is_what_was_sealed(cipher: Cipher | None) -> None:
    sealer, opener = pair(cipher)
    tag = cipher.tag_bytes if cipher else 0
    array = np.arange(1000, dtype=np.float32)
    for ordinal, payload in enumerate([array[:0], array[:1], array.reshape(10, 100), array[1:2]]):
        size = payload.nbytes
        frame = sealer.seal(INPUT, ordinal, payload)
        assert len(frame) == HEADER + size + tag
        assert opened(opener, frame) == (ordinal, payload.tobytes())

    assert (opener.refused, opener.frames, opener.total) == ({}, 4, sealer.total)


@pytest.mark.parametrize("cipher", CIPHERS.values(), ids=CIPHERS)
def test_equal_payloads_give_unequal_frames_and_the_header_tells_no_more_than_it_says(cipher: Cipher) -> None:
    sealer, _ = pair(cipher)
    one, two = sealer.seal(INPUT, 7, b"same"), sealer.seal(INPUT, 7, b"same")

    assert one[HEADER:] != two[HEADER:]
    assert LAYOUT.unpack(two[:HEADER]) == (MAGIC, 7, ID, 1, INPUT, 4)
    assert HEADER == 48
    assert b"same" not in one


def test_both_ends_of_a_handshake() -> None:
    cipher, names = CIPHERS["aes-128-gcm"], prologue("aes-128-gcm", "a", "b")
    state, hello = initiator_start(KEY, names)
    theirs, answer = responder_reply(KEY, names, hello)
    send, receive = directions(initiator_finish(state, answer), cipher)
    back, there = directions(theirs, cipher)

    assert bytes(there.open(send.seal(INPUT, 1, b"to b")).payload) == b"to b"
    assert bytes(receive.open(back.seal(INPUT, 2, b"to a")).payload) == b"to a"
    # A frame that is sent back to its sender was sealed with the key of the other direction.
    assert (
        refused(
            receive, bytes(LAYOUT.pack(MAGIC, 1, theirs.id, 1, INPUT, 4) + send.seal(INPUT, 1, b"to b")[HEADER:])
        )
        == "tampered"
    )


@pytest.mark.parametrize("cipher", CIPHERS.values(), ids=CIPHERS)
def test_every_bit_of_a_frame_counts(cipher: Cipher) -> None:
    sealer, opener = pair(cipher)
    frame = sealer.seal(INPUT, 3, b"seven b")
    for bit in range(8 * len(frame)):
        wrong = bytearray(frame)
        wrong[bit // 8] ^= 1 << bit % 8
        refused(opener, wrong)

    assert sum(opener.refused.values()) == 8 * len(frame)
    # Changes of magic, session, counter and length have separate reasons; others are detected by the tag.
    assert opener.refused[Reason.FORMAT] == 8 * 4
    assert opener.refused[Reason.FOREIGN] == 8 * 16
    assert opener.refused[Reason.REORDERED] == 8 * 8
    assert opener.refused[Reason.TAMPERED] == 8 * (4 + 8 + 7 + 16)
    assert opened(opener, frame) == (3, b"seven b")


def test_each_reason() -> None:
    limits = FrameLimits(length=10)
    sealer, opener = pair(CIPHERS["aes-128-gcm"], limits)
    first, second, third = (sealer.seal(INPUT, i, b"payload") for i in range(3))
    stranger = Sealer(bytes(16), CIPHERS["aes-128-gcm"], KEY).seal(INPUT, 0, b"payload")
    large = Sealer(ID, CIPHERS["aes-128-gcm"], KEY).seal(INPUT, 0, b"eleven byte")
    other_key = Sealer(ID, CIPHERS["aes-128-gcm"], KEY[::-1]).seal(INPUT, 0, b"payload")

    cases: list[tuple[bytes | bytearray, str]] = [
        (b"", "truncated"),
        (first[: HEADER - 1], "truncated"),
        (first[:-1], "truncated"),
        (first + b"\0", "overlong"),
        (b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n.........", "format"),
        (stranger, "foreign session"),
        (large, "oversized"),
        (second, "reordered"),
        (other_key, "tampered"),
    ]
    for frame, reason in cases:
        assert refused(opener, frame) == reason
    assert bytes(opener.open(first).payload) == b"payload"
    assert refused(opener, first) == "replayed"
    assert refused(opener, third) == "reordered"
    assert [opener.open(f).ordinal for f in (second, third)] == [1, 2]
    assert opener.refused == {
        "truncated": 3,
        "overlong": 1,
        "format": 1,
        "foreign session": 1,
        "oversized": 1,
        "reordered": 2,
        "tampered": 1,
        "replayed": 1,
    }


Frames = list[bytes]


@st.composite
def meddled(draw: st.DrawFn, frames: Frames, strangers: Frames) -> Frames:
    """Draw a stream of frames as an attacker on the link may change it."""
    stream = list(frames)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(stream) - 1)) if stream else 0
        kind = draw(
            st.sampled_from(["flip", "cut", "twice", "swap", "insert", "drop", "stranger", "grow", "splice"])
        )
        frame = stream[at] if stream else b""
        if kind == "flip" and frame:
            bit = draw(st.integers(0, 8 * len(frame) - 1))
            changed = bytearray(frame)
            changed[bit // 8] ^= 1 << bit % 8
            stream[at] = bytes(changed)
        elif kind == "cut" and frame:
            stream[at] = frame[: draw(st.integers(0, len(frame) - 1))]
        elif kind == "twice" and stream:
            stream.insert(at, frame)
        elif kind == "swap" and stream:
            to = draw(st.integers(0, len(stream) - 1))
            stream[at], stream[to] = stream[to], stream[at]
        elif kind == "insert":
            stream.insert(at, draw(st.binary(max_size=100)))
        elif kind == "drop" and stream:
            stream.pop(at)
        elif kind == "stranger":
            stream.insert(at, draw(st.sampled_from(strangers)))
        elif kind == "grow" and stream:
            stream[at] = frame + draw(st.binary(min_size=1, max_size=40))
        elif kind == "splice" and stream:
            stream[at] = frame[:HEADER] + draw(st.sampled_from(frames))[HEADER:]
    return stream


PAYLOADS = [b"zero", b"one" * 9, b"", b"three"]


@pytest.mark.parametrize("name", ["ascon-128", "ascon-aead128", "aes-256-gcm", "chacha20-poly1305"])
@given(st.data())
def test_a_meddled_stream_yields_a_prefix_and_the_right_next_frame_still_opens(
    name: str, data: st.DataObject
) -> None:
    cipher = CIPHERS[name]
    sealer, opener = pair(cipher)
    frames = [bytes(sealer.seal(INPUT, i, payload)) for i, payload in enumerate(PAYLOADS)]
    other, reverse = Sealer(bytes(16), cipher, KEY), Sealer(ID, cipher, KEY[::-1])
    strangers = [bytes(s.seal(INPUT, i, p)) for s in (other, reverse) for i, p in enumerate(PAYLOADS)]

    refusals = 0
    accepted = []
    for frame in data.draw(meddled(frames, strangers)):
        try:
            accepted.append(opened(opener, frame))
        except FrameRefused:
            refusals += 1
    expected = [(i, payload) for i, payload in enumerate(PAYLOADS)]

    assert accepted == expected[: len(accepted)]
    assert sum(opener.refused.values()) == refusals
    assert [opened(opener, frame) for frame in frames[len(accepted) :]] == expected[len(accepted) :]


@given(st.binary(max_size=200))
def test_noise_never_crashes_an_opener(noise: bytes) -> None:
    for cipher in (None, CIPHERS["aes-128-gcm"]):
        _, opener = pair(cipher)
        refused(opener, noise)
        refused(opener, MAGIC + bytes(4) + ID + bytes(8) + noise[:3])


def test_a_plain_link_checks_order_session_and_length_only() -> None:
    sealer, opener = pair(None)
    first, second = sealer.seal(INPUT, 0, b"payload"), sealer.seal(INPUT, 1, b"payload")

    assert refused(opener, second) == "reordered"
    assert refused(opener, first[:-1]) == "truncated"
    assert bytes(opener.open(first[:-1] + b"!").payload) == b"payloa!"
    assert refused(opener, first) == "replayed"


def test_a_length_above_the_limit_is_refused_before_anything_is_allocated() -> None:
    _, opener = pair(CIPHERS["aes-128-gcm"])
    for length in (256 * 2**20 + 1, 2**64 - 1):
        header = LAYOUT.pack(MAGIC, 0, ID, 0, INPUT, length)
        with pytest.raises(FrameRefused, match="oversized") as caught:
            opener.open(header)
        assert caught.value.reason is Reason.OVERSIZED
    # A short frame with a large announced length does not allocate memory.
    assert refused(opener, LAYOUT.pack(MAGIC, 0, ID, 0, INPUT, 256 * 2**20) + b"x") == "truncated"


@pytest.mark.parametrize("cipher", PROTECTIONS.values(), ids=PROTECTIONS)
def test_a_key_is_used_up_and_asks_for_a_new_session(cipher: Cipher | None) -> None:
    by_frames, _ = pair(cipher, FrameLimits(frames=2))
    by_bytes, opener = pair(cipher, FrameLimits(total=10))
    for sealer, payload in ((by_frames, b""), (by_bytes, b"12345")):
        for i in range(2):
            sealer.seal(INPUT, i, payload)
        with pytest.raises(SessionExhausted, match="open a new session"):
            sealer.seal(INPUT, 2, b"1")
        with pytest.raises(SessionExhausted):
            sealer.seal(INPUT, 2, b"1")
    # A payload that fits can still be sealed.
    assert by_bytes.seal(INPUT, 2, b"")
    assert (by_bytes.frames, opener.frames) == (3, 0)


def test_what_does_not_fit_a_frame_uses_nothing_up() -> None:
    sealer, opener = pair(CIPHERS["aes-128-gcm"], FrameLimits(length=3))
    for ordinal, payload in ((0, b"four"), (-1, b""), (2**32, b"")):
        with pytest.raises(LinkError, match=f"got input {INPUT}, ordinal {ordinal} and {len(payload)} bytes"):
            sealer.seal(INPUT, ordinal, payload)
    with pytest.raises(LinkError, match="not contiguous"):
        sealer.seal(INPUT, 0, np.zeros(4, np.uint8)[::2])

    assert opened(opener, sealer.seal(INPUT, 2**32 - 1, b"abc")) == (2**32 - 1, b"abc")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(LinkError, match="an id of 15 bytes and a key of 31; expected 16 and at least 32"):
        Sealer(ID[1:], CIPHERS["aes-256-gcm"], KEY[1:])
    with pytest.raises(LinkError, match="length must be between 1 and"):
        FrameLimits(length=2**31)
    with pytest.raises(LinkError, match="got 0 and 5"):
        FrameLimits(frames=0, total=5)


def test_threads_that_share_a_sealer_use_no_counter_twice() -> None:
    sealer, opener = pair(CIPHERS["aes-128-gcm"])
    frames: Frames = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: frames.extend(bytes(sealer.seal(INPUT, 0, b"x")) for _ in range(100)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    in_order = sorted(frames, key=lambda f: LAYOUT.unpack_from(f)[3])
    assert [opener.open(f).payload for f in in_order] == [b"x"] * 400


def test_a_direction_is_neither_copied_nor_printed() -> None:
    sealer, opener = pair(CIPHERS["aes-256-gcm"])
    for thing in (sealer, opener):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="would reuse nonces"):
                duplicate(thing)
        assert KEY.hex() not in repr(thing)
        assert repr(KEY)[2:-1] not in repr(thing)
    assert repr(sealer) == f"Sealer(aes-256-gcm, session {ID.hex()}, 0 frames)"
