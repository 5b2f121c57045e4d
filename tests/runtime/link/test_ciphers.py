"""The table of ciphers: official test vectors, and the same behaviour of all ciphers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.runtime.link.ciphers import CIPHERS, Cipher, named
from cloven.runtime.link.errors import LinkError, WrongTag

ALL = list(CIPHERS.values())
GCM_KEY = "feffe9928665731c6d6a8f9467308308"
GCM_PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
# (cipher, key, nonce, associated, plaintext, ciphertext and tag)
OFFICIAL = {
    "NIST's GCM submission, test case 4": (
        "aes-128-gcm",
        GCM_KEY,
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        GCM_PLAIN,
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
        "1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
    ),
    "NIST's GCM submission, test case 16": (
        "aes-256-gcm",
        GCM_KEY * 2,
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        GCM_PLAIN,
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
        "c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    ),
    "RFC 8439, section 2.8.2": (
        "chacha20-poly1305",
        bytes(range(0x80, 0xA0)).hex(),
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        SUNSCREEN.hex(),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    ),
}


@pytest.mark.parametrize("vector", OFFICIAL.values(), ids=OFFICIAL)
def test_official_vectors(vector: tuple[str, ...]) -> None:
    cipher = CIPHERS[vector[0]]
    key, nonce, associated, plain, sealed = map(bytes.fromhex, vector[1:])

    assert cipher.seal(key, nonce, associated, plain) == sealed
    assert cipher.open(key, nonce, associated, sealed) == plain


def test_the_table() -> None:
    sizes = {name: (c.key_bytes, c.nonce_bytes, c.tag_bytes) for name, c in CIPHERS.items()}

    assert sizes == {
        "ascon-128": (16, 16, 16),
        "ascon-aead128": (16, 16, 16),
        "aes-128-gcm": (16, 12, 16),
        "aes-256-gcm": (32, 12, 16),
        "chacha20-poly1305": (32, 12, 16),
    }
    with pytest.raises(TypeError):
        CIPHERS["rot13"] = ALL[0]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        ALL[0].key_bytes = 1  # type: ignore[misc]


def test_names() -> None:
    assert named("none") is None
    assert named("ascon-128") is CIPHERS["ascon-128"]
    with pytest.raises(ClovenError, match=r"protection must be one of none, ascon-128, asc.*, got 'rot13'"):
        named("rot13")


@pytest.mark.parametrize("cipher", ALL, ids=lambda c: c.name)
def test_one_behaviour(cipher: Cipher) -> None:
    key, nonce = bytes(range(cipher.key_bytes)), bytes(range(cipher.nonce_bytes))
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    sealed = cipher.seal(key, nonce, b"header", array)

    assert len(sealed) == array.nbytes + cipher.tag_bytes
    assert cipher.open(key, nonce, memoryview(b"header"), bytearray(sealed)) == array.tobytes()
    assert cipher.open(key, nonce, b"", cipher.seal(key, nonce, b"", np.empty((0, 3)))) == b""
    out = bytearray(b"!" * array.nbytes)
    with pytest.raises(WrongTag, match=cipher.name) as caught:
        cipher.open_into(key, nonce, b"Header", sealed, out)
    assert out == bytes(array.nbytes)
    assert key.hex() not in str(caught.value)
    assert caught.value.__cause__ is None
    for n in range(len(sealed)):
        with pytest.raises(WrongTag):
            cipher.open(key, nonce, b"header", sealed[:n])


@pytest.mark.parametrize("cipher", ALL, ids=lambda c: c.name)
def test_sizes_are_exact(cipher: Cipher) -> None:
    nonce = bytes(cipher.nonce_bytes)
    for size in {0, 16, 24, 32, 33} - {cipher.key_bytes}:
        with pytest.raises(LinkError, match=f"{cipher.name}: got {size} bytes of key and"):
            cipher.seal(bytes(size), nonce, b"", b"")
        with pytest.raises(LinkError, match=f"{cipher.name}: got {size} bytes of key"):
            cipher.open(bytes(size), nonce, b"", bytes(16))
    with pytest.raises(LinkError, match=f"and {cipher.nonce_bytes + 1} of nonce; expected"):
        cipher.seal(bytes(cipher.key_bytes), bytes(cipher.nonce_bytes + 1), b"", b"")
    with pytest.raises(LinkError, match="expected a writable one of 17"):
        cipher.seal_into(bytes(cipher.key_bytes), nonce, b"", b"a", bytearray(16))
    with pytest.raises(LinkError, match="expected a writable one of 1 "):
        cipher.open_into(bytes(cipher.key_bytes), nonce, b"", bytes(17), bytearray(2))
