"""The ciphers of links by name, in one table whatever library they come from."""

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
"""The name of the absence of protection; it is not in the table."""


@dataclass(frozen=True)
class Cipher:
    """Authenticated encryption with associated data.

    Attributes:
        name: the name in plans.
        key_bytes: the size of the key.
        nonce_bytes: the size of the nonce, which must never be used twice with a key.
        tag_bytes: the size of the tag, which follows the ciphertext.
        seal_into: takes (key, nonce, associated, plaintext, out) and writes ciphertext and tag to out, which must
            have exactly their size.
        open_into: takes (key, nonce, associated, sealed, out) and writes the plaintext to out; if the tag is wrong,
            it writes zeros and raises `WrongTag`.
    """

    name: str
    key_bytes: int
    nonce_bytes: int
    tag_bytes: int
    seal_into: Callable[[Data, Data, Data, Data, Data], None]
    open_into: Callable[[Data, Data, Data, Data, Data], None]

    def seal(self, key: Data, nonce: Data, associated: Data, plaintext: Data) -> bytes:
        """Return the ciphertext and the tag."""
        out = bytearray(octets(plaintext).nbytes + self.tag_bytes)
        self.seal_into(key, nonce, associated, plaintext, out)
        return bytes(out)

    def open(self, key: Data, nonce: Data, associated: Data, sealed: Data) -> bytes:
        """Return the plaintext; raise `WrongTag` if the tag is wrong."""
        out = bytearray(max(0, octets(sealed).nbytes - self.tag_bytes))
        self.open_into(key, nonce, associated, sealed, out)
        return bytes(out)


@dataclass(frozen=True)
class Foreign:
    """A cipher of the package `cryptography`: the name of its class, and the key size."""

    name: str
    algorithm: Literal["AESGCM", "ChaCha20Poly1305"]
    key_bytes: int
    nonce_bytes: int = 12
    tag_bytes: int = 16

    def seal_into(self, key: Data, nonce: Data, associated: Data, plaintext: Data, out: Data) -> None:
        """Encrypt as `Cipher.seal_into` does."""
        secret, number = sized(self.name, key, nonce, self.key_bytes, self.nonce_bytes)
        data = octets(plaintext)
        whole = writable(out, data.nbytes + self.tag_bytes)
        algorithm(self.algorithm)(secret).encrypt_into(number, data, octets(associated), whole)

    def open_into(self, key: Data, nonce: Data, associated: Data, sealed: Data, out: Data) -> None:
        """Decrypt as `Cipher.open_into` does."""
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
            # Erase what was decrypted before the tag was compared.
            whole[:] = bytes(size)
            raise WrongTag(self.name) from None


@cache
def algorithm(name: str) -> type[AESGCM] | type[ChaCha20Poly1305]:
    """Return a class of `cryptography`; it is cached, as the import takes as long as encrypting a short message."""
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
        raise ClovenError(f"protection must be one of {', '.join([NONE, *CIPHERS])}, got {protection!r}")
    return CIPHERS.get(protection)


def warm(cipher: Cipher | None) -> None:
    """Seal and open an empty message, so that the cipher is compiled now and not at its first use.

    Raises:
        ClovenError: if the cipher's package is not installed.
    """
    if cipher is not None:
        key, nonce = bytes(cipher.key_bytes), bytes(cipher.nonce_bytes)
        cipher.open(key, nonce, b"", cipher.seal(key, nonce, b"", b""))
