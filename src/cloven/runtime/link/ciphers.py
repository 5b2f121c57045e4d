"""The ciphers of a link by name: one table, whatever library they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from cloven.errors import ClovenError
from cloven.runtime.link import ascon
from cloven.runtime.link.errors import WrongTag
from cloven.runtime.link.octets import octets, sized, writable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    from cloven.runtime.link.octets import Data

NONE = "none"
"""The name of no protection; it is not in the table."""


@dataclass(frozen=True)
class Cipher:
    """Authenticated encryption with associated data.

    Attributes:
        name: as plans write it.
        key_bytes: size of the key.
        nonce_bytes: size of the nonce, which must never be used twice with a key.
        tag_bytes: how much longer than its plaintext a sealed message is.
        seal_into: (key, nonce, associated, plaintext, out); out gets ciphertext and tag, and has just their size.
        open_into: (key, nonce, associated, sealed, out); out gets the plaintext, or zeros and a `WrongTag` where
            it is not what was sealed.
    """

    name: str
    key_bytes: int
    nonce_bytes: int
    tag_bytes: int
    seal_into: Callable[[Data, Data, Data, Data, Data], None]
    open_into: Callable[[Data, Data, Data, Data, Data], None]

    def seal(self, key: Data, nonce: Data, associated: Data, plaintext: Data) -> bytes:
        """Ciphertext and tag."""
        out = bytearray(octets(plaintext).nbytes + self.tag_bytes)
        self.seal_into(key, nonce, associated, plaintext, out)
        return bytes(out)

    def open(self, key: Data, nonce: Data, associated: Data, sealed: Data) -> bytes:
        """Return the plaintext; raise `WrongTag` if it is not what was sealed."""
        out = bytearray(max(0, octets(sealed).nbytes - self.tag_bytes))
        self.open_into(key, nonce, associated, sealed, out)
        return bytes(out)


@dataclass(frozen=True)
class Foreign:
    """A cipher of `cryptography`: its class there, and the one size of key that this entry takes."""

    name: str
    algorithm: Literal["AESGCM", "ChaCha20Poly1305"]
    key_bytes: int
    nonce_bytes: int = 12
    tag_bytes: int = 16

    def seal_into(self, key: Data, nonce: Data, associated: Data, plaintext: Data, out: Data) -> None:
        """Do as `Cipher.seal_into`."""
        secret, number = sized(self.name, key, nonce, self.key_bytes, self.nonce_bytes)
        data = octets(plaintext)
        whole = writable(out, data.nbytes + self.tag_bytes)
        algorithm(self.algorithm)(secret).encrypt_into(number, data, octets(associated), whole)

    def open_into(self, key: Data, nonce: Data, associated: Data, sealed: Data, out: Data) -> None:
        """Do as `Cipher.open_into`."""
        from cryptography.exceptions import InvalidTag

        secret, number = sized(self.name, key, nonce, self.key_bytes, self.nonce_bytes)
        data = octets(sealed)
        size = data.nbytes - self.tag_bytes
        if size < 0:
            raise WrongTag(self.name)
        whole = writable(out, size)
        try:
            algorithm(self.algorithm)(secret).decrypt_into(number, data, octets(associated), whole)
        except InvalidTag:
            # What was decrypted before the tag was compared must not be left lying.
            whole[:] = bytes(size)
            raise WrongTag(self.name) from None


@cache
def algorithm(name: str) -> type[AESGCM] | type[ChaCha20Poly1305]:
    """Return a class of `cryptography`, imported at first use: an import costs as much as a short message."""
    from cryptography.hazmat.primitives.ciphers import aead

    found: type[AESGCM] | type[ChaCha20Poly1305] = getattr(aead, name)
    return found


def of_cryptography(name: str, algorithm: Literal["AESGCM", "ChaCha20Poly1305"], key_bytes: int) -> Cipher:
    """Return the entry of a cipher of `cryptography`."""
    cipher = Foreign(name, algorithm, key_bytes)
    return Cipher(name, key_bytes, cipher.nonce_bytes, cipher.tag_bytes, cipher.seal_into, cipher.open_into)


def of_ascon(name: ascon.Variant) -> Cipher:
    """Return the entry of a variant of Ascon."""
    seal = partial(ascon.seal_into, variant=name)
    return Cipher(name, ascon.KEY, ascon.NONCE, ascon.TAG, seal, partial(ascon.open_into, variant=name))


CIPHERS: Mapping[str, Cipher] = MappingProxyType(
    {
        cipher.name: cipher
        for cipher in (
            of_ascon("ascon-128"),
            of_ascon("ascon-aead128"),
            of_cryptography("aes-128-gcm", "AESGCM", 16),
            of_cryptography("aes-256-gcm", "AESGCM", 32),
            of_cryptography("chacha20-poly1305", "ChaCha20Poly1305", 32),
        )
    }
)


def named(protection: str) -> Cipher | None:
    """Return the cipher of a plan's ``protection``; None for "none".

    Raises:
        ClovenError: for any other name.
    """
    if protection != NONE and protection not in CIPHERS:
        raise ClovenError(f"protection = {protection!r} is not a cipher; known are {', '.join([NONE, *CIPHERS])}")
    return CIPHERS.get(protection)


def warm(cipher: Cipher | None) -> None:
    """Seal and open nothing: what is compiled at first use is compiled now.

    Raises:
        ClovenError: for a cipher whose package is not installed.
    """
    if cipher is not None:
        key, nonce = bytes(cipher.key_bytes), bytes(cipher.nonce_bytes)
        cipher.open(key, nonce, b"", cipher.seal(key, nonce, b"", b""))
