"""The handshake: a published Noise test vector, agreement on keys, and refusals."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from cloven.runtime.link import handshake
from cloven.runtime.link.errors import HandshakeRefused, HandshakeRepeated, LinkError
from cloven.runtime.link.handshake import (
    FirstMessages,
    Session,
    initiator_finish,
    initiator_start,
    prologue,
    responder_reply,
)

PSK = bytes(range(100, 132))
NAMES = prologue("ascon-aead128", "edge0", "edge1")


def run(psk: bytes = PSK, names: bytes = NAMES) -> tuple[Session, Session]:
    """Return both sides' sessions; the arguments apply to the responder."""
    state, hello = initiator_start(PSK, NAMES)
    theirs, answer = responder_reply(psk, names, hello)
    return initiator_finish(state, answer), theirs


def test_a_published_vector_of_noise() -> None:
    """The vector is Noise_NNpsk0_25519_ChaChaPoly_SHA256 of cacophony."""
    psk, name = b"This is my Austrian perspective!", b"John Galt"
    ours = bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a")
    theirs = bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")

    state, hello = handshake.write_hello(
        handshake.begun(psk, name), handshake.private_key(ours), b"Ludwig von Mises"
    )
    transcript, public, payload = handshake.read_hello(handshake.begun(psk, name), hello)
    responder, answer = handshake.write_answer(
        transcript, public, handshake.private_key(theirs), b"Murray Rothbard"
    )
    initiator, second = handshake.read_answer(state, answer)

    assert hello.hex() == (
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
        "79b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54"
    )
    assert answer.hex() == (
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
        "d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3"
    )
    assert (payload, second) == (b"Ludwig von Mises", b"Murray Rothbard")
    # The published handshake_hash is the one after the first message.
    published = "054a32eaeedc4061a64cec028e34e5775d4de033e32525a5dfbd719056bae0b6"
    assert state.transcript.hash.hex() == transcript.hash.hex() == published
    assert initiator.id == responder.id
    frames = (
        (initiator.send, b"F. A. Hayek", "e632c3763d7669067383433197a3baddf146e9e70ad4b4e9e59e0f"),
        (responder.send, b"Carl Menger", "64c6bee32ea91c8474bb4c21d7a700109ad45af77b29764ba5eb1e"),
    )
    for key, text, sealed in frames:
        assert ChaCha20Poly1305(key).encrypt(bytes(12), text, b"").hex() == sealed
    assert (initiator.receive, responder.receive) == (responder.send, initiator.send)


def test_both_sides_agree_and_every_session_is_another() -> None:
    ours, theirs = run()
    again, _ = run()

    assert (ours.id, ours.send, ours.receive) == (theirs.id, theirs.receive, theirs.send)
    assert len({ours.send, ours.receive, again.send, again.receive}) == 4
    assert ours.id != again.id
    assert {len(ours.send), len(ours.receive)} == {32}


OTHER_NAMES = {
    "cipher": prologue("aes-128-gcm", "edge0", "edge1"),
    "initiator": prologue("ascon-aead128", "edge2", "edge1"),
    "responder": prologue("ascon-aead128", "edge0", "edge2"),
    "roles": prologue("ascon-aead128", "edge1", "edge0"),
    "none": b"",
}


@pytest.mark.parametrize("names", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_another_prologue_is_refused_at_the_first_message(names: bytes) -> None:
    with pytest.raises(HandshakeRefused, match="another link key, cipher, version or other"):
        run(names=names)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "VERSION", handshake.VERSION + 1)

    with pytest.raises(HandshakeRefused):
        run(names=prologue("ascon-aead128", "edge0", "edge1"))


def test_names_cannot_run_into_each_other() -> None:
    assert prologue("c", "ab", "c") != prologue("c", "a", "bc")
    assert prologue("c", "é", "") != prologue("c", "", "é")


@given(st.integers(0, 8 * 32 - 1))
def test_another_key_is_refused_at_the_first_message(bit: int) -> None:
    psk = bytearray(PSK)
    psk[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HandshakeRefused, match="give both devices the same key file"):
        run(psk=bytes(psk))


def test_a_key_of_another_size_is_an_error_of_ours() -> None:
    with pytest.raises(LinkError, match="the link key has 31 bytes; expected 32"):
        initiator_start(PSK[1:], NAMES)


def flipped(message: bytes, bit: int) -> bytes:
    out = bytearray(message)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


mutated = st.one_of(
    st.integers(0, 8 * handshake.MESSAGE - 1).map(lambda bit: lambda m: flipped(m, bit)),
    st.integers(0, handshake.MESSAGE - 1).map(lambda n: lambda m: m[:n]),
    st.binary(min_size=1, max_size=9).map(lambda more: lambda m: m + more),
    st.binary(min_size=48, max_size=48).map(lambda other: lambda m: other),
)


@given(mutated, st.booleans())
def test_changed_messages_are_refused(change: object, first: bool) -> None:
    assert callable(change)
    state, hello = initiator_start(PSK, NAMES)
    if first:
        with pytest.raises(HandshakeRefused):
            responder_reply(PSK, NAMES, change(hello))
    else:
        _, answer = responder_reply(PSK, NAMES, hello)
        with pytest.raises(HandshakeRefused):
            initiator_finish(state, change(answer))


def test_every_bit_of_both_messages_counts() -> None:
    # X25519 ignores the top bit of a public key; the hash of the transcript still covers it.
    state, hello = initiator_start(PSK, NAMES)
    _, answer = responder_reply(PSK, NAMES, hello)
    for bit in range(8 * handshake.MESSAGE):
        with pytest.raises(HandshakeRefused):
            responder_reply(PSK, NAMES, flipped(hello, bit))
        with pytest.raises(HandshakeRefused):
            initiator_finish(state, flipped(answer, bit))


def test_reflected_and_replayed_messages_are_refused() -> None:
    state, hello = initiator_start(PSK, NAMES)
    other, other_hello = initiator_start(PSK, NAMES)
    _, answer = responder_reply(PSK, NAMES, hello)

    for wrong in (hello, other_hello):
        with pytest.raises(HandshakeRefused):
            initiator_finish(state, wrong)
    with pytest.raises(HandshakeRefused):
        initiator_finish(other, answer)
    with pytest.raises(HandshakeRefused):
        responder_reply(PSK, NAMES, answer)


def test_first_messages_are_answered_once_and_the_memory_of_them_is_bounded() -> None:
    firsts = FirstMessages(most=3)
    for number in range(5):
        firsts.check(bytes([number]))
        firsts.add(bytes([number]))

    for number in (2, 3, 4):
        with pytest.raises(HandshakeRepeated, match="its first message was already answered"):
            firsts.check(bytes([number]))
    firsts.check(bytes([1]))


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *(bytes([low]) + b"\xff" * 30 + b"\x7f" for low in (0xEC, 0xED, 0xEE)),
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda p: p.hex()[:8])
def test_public_keys_of_low_order_are_refused(point: bytes) -> None:
    """They are refused also from a peer that has the link's key."""
    state, hello = initiator_start(PSK, NAMES)
    _, tag = handshake.encrypted(handshake.with_public(handshake.begun(PSK, NAMES), point), b"")

    with pytest.raises(HandshakeRefused, match="public key of low order"):
        responder_reply(PSK, NAMES, point + tag)
    with pytest.raises(HandshakeRefused, match="public key of low order"):
        initiator_finish(state, point + bytes(16))
    assert len(hello) == handshake.MESSAGE


def test_no_key_is_printed() -> None:
    state, hello = initiator_start(PSK, NAMES)
    session, _ = responder_reply(PSK, NAMES, hello)
    secrets = (
        PSK,
        session.send,
        session.receive,
        state.transcript.chain,
        state.transcript.key,
        state.private.private_bytes_raw(),
    )
    with pytest.raises(HandshakeRefused) as caught:
        run(psk=bytes(32))

    for text in (repr(state), repr(session), str(session), repr(caught.value)):
        assert not any(secret.hex() in text or repr(secret)[2:-1] in text for secret in secrets)
    assert repr(session) == f"Session(id={session.id!r})"
