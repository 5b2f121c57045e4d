"""A sealed file: AES-256-GCM in chunks, under a key that is specific to one file and its name.

    magic, salt, chunk size, length    52 bytes: the header
    chunk, tag; chunk, tag; ...        all but the last have the chunk size; an empty plaintext has one empty chunk

The file's key is derived (HKDF-SHA256) from the data key, a fresh random salt and the name. A chunk's nonce encodes
its number and whether it is the last one, and its associated data is the header; chunks can therefore not be
changed, omitted, added or swapped. Source: Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption
and its Nonce-Reuse Misuse-Resistance (CRYPTO 2015), STREAM.

Error messages never contain a key or any byte of a plaintext.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cloven.errors import ClovenError
from cloven.files import open_regular, replacing
from cloven.runtime.link.octets import octets

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from typing_extensions import Buffer

KEY_BYTES = 32
"""The size of a data key."""
MAGIC = b"CLVSEAL1"
SALT_BYTES = 32
TAG_BYTES = 16
CHUNK_BYTES = 2**20
CHUNKS = range(1, 2**26 + 1)
"""The valid sizes of a chunk."""
LAYOUT = struct.Struct(f">{len(MAGIC)}s{SALT_BYTES}sIQ")
INFO = b"cloven sealed file"


@dataclass(frozen=True)
class Header:
    """The header of a sealed file.

    Attributes:
        salt: 32 random bytes.
        chunk: the plaintext size of each chunk except the last, in bytes.
        length: the plaintext size of the file, in bytes.
    """

    salt: bytes
    chunk: int
    length: int

    @property
    def count(self) -> int:
        """Return the number of chunks."""
        return max(1, -(-self.length // self.chunk))

    @property
    def size(self) -> int:
        """Return the size of the whole file, in bytes."""
        return LAYOUT.size + self.length + self.count * TAG_BYTES

    @property
    def packed(self) -> bytes:
        """Return the encoded header."""
        return LAYOUT.pack(MAGIC, self.salt, self.chunk, self.length)

    def pieces(self) -> Iterator[tuple[bytes, slice]]:
        """Yield the nonce of each chunk and its place in the plaintext."""
        for index in range(self.count):
            start = index * self.chunk
            last = index == self.count - 1
            yield index.to_bytes(11, "big") + bytes([last]), slice(start, min(start + self.chunk, self.length))


def seal(plaintext: Buffer, path: Path, *, key: bytes, name: str, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Write or replace a sealed file; only ciphertext is ever written.

    Args:
        plaintext: any contiguous buffer.
        path: the file, created with mode 0600.
        key: the data key, 32 bytes.
        name: the name that is required to open the file.
        chunk_bytes: the plaintext size of a chunk, 1 to 2^26.

    Raises:
        ClovenError: if the key or the chunk has another size, or the file cannot be written; then nothing remains.
    """
    data = octets(plaintext)
    header = new_header(data.nbytes, chunk_bytes)
    cipher = file_cipher(key, name, header.salt)
    with replacing(path, private=True) as part, part.open("wb") as out:
        write_chunks(data, out, header, cipher)


def unseal(path: Path, *, key: bytes, name: str, limit: int | None = None) -> bytearray:
    """Return the plaintext of a sealed file.

    Args:
        path: the file.
        key: the data key, 32 bytes.
        name: the name that it was sealed with.
        limit: the largest size of the file, in bytes; set it if the writer is not trusted, since the plaintext is
            kept in memory.

    Raises:
        ClovenError: if the file cannot be read, is not a sealed file, has changed, or was sealed with another key
            or name.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise ClovenError(f"{path} has {size} bytes; expected at most {limit}")
            return opened(cast(BufferedIOBase, file), size, str(path), key, name)
        except OSError as error:
            raise ClovenError(f"cannot read {path}: {error.strerror}") from error


def sealed_bytes(plaintext: Buffer, key: bytes, name: str) -> bytes:
    """Return the bytes that `seal` would write, for small content in memory.

    Raises:
        ClovenError: if the key has another size.
    """
    data = octets(plaintext)
    header = new_header(data.nbytes, CHUNK_BYTES)
    out = io.BytesIO()
    write_chunks(data, out, header, file_cipher(key, name, header.salt))
    return out.getvalue()


def unsealed_bytes(sealed: Buffer, key: bytes, name: str) -> bytes:
    """Return the plaintext of `sealed_bytes`.

    Raises:
        ClovenError: if the bytes have changed, or were sealed with another key or name.
    """
    data = octets(sealed)
    return bytes(opened(io.BytesIO(data), data.nbytes, repr(name), key, name))


def new_header(length: int, chunk: int) -> Header:
    """Return the header of a new file, with a fresh salt."""
    if chunk not in CHUNKS:
        raise ClovenError(f"the chunk size is {chunk}; expected 1 to {CHUNKS[-1]} bytes")
    return Header(os.urandom(SALT_BYTES), chunk, length)


def file_cipher(key: bytes, name: str, salt: bytes) -> AESGCM:
    """Return the cipher of one file; its key is not used for anything else."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(derived(key, INFO + name.encode(), salt))


def derived(key: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    """Derive a 32-byte key with HKDF-SHA256.

    Raises:
        ClovenError: if the given key has another size.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(key) != KEY_BYTES:
        raise ClovenError(f"the key has {len(key)} bytes; expected {KEY_BYTES}: use the released key unchanged")
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(key)


def write_chunks(data: memoryview, out: BufferedIOBase, header: Header, cipher: AESGCM) -> None:
    """Write the header and the chunks, through one buffer of a chunk's size."""
    associated = header.packed
    out.write(associated)
    buffer = memoryview(bytearray(min(header.chunk, header.length) + TAG_BYTES))
    for nonce, place in header.pieces():
        sealed = buffer[: place.stop - place.start + TAG_BYTES]
        cipher.encrypt_into(nonce, data[place], associated, sealed)
        out.write(sealed)


def opened(file: BufferedIOBase, size: int, what: str, key: bytes, name: str) -> bytearray:
    """Return the plaintext of a sealed file of `size` bytes; error messages call it `what`."""
    from cryptography.exceptions import InvalidTag

    header = read_header(file, size, what)
    associated = header.packed
    cipher = file_cipher(key, name, header.salt)
    plaintext = bytearray(header.length)
    whole = memoryview(plaintext)
    buffer = memoryview(bytearray(min(header.chunk, header.length) + TAG_BYTES))
    for nonce, place in header.pieces():
        sealed = buffer[: place.stop - place.start + TAG_BYTES]
        if file.readinto(sealed) != sealed.nbytes:
            raise not_what_was_sealed(what, name)
        try:
            cipher.decrypt_into(nonce, sealed, associated, whole[place])
        except InvalidTag:
            raise not_what_was_sealed(what, name) from None
    return plaintext


def read_header(file: BufferedIOBase, size: int, what: str) -> Header:
    """Read the header, and check that it agrees with the file's size."""
    head = file.read(LAYOUT.size)
    if not head.startswith(MAGIC):
        raise ClovenError(
            f"{what} is not a sealed file: its {size} bytes do not begin with {MAGIC.decode()}; give a file that "
            "cloven sealed"
        )
    if len(head) == LAYOUT.size:
        _, salt, chunk, length = LAYOUT.unpack(head)
        if chunk in CHUNKS and (header := Header(salt, chunk, length)).size == size:
            return header
    raise not_what_was_sealed(what, detail=f" (its size of {size} bytes contradicts its header)")


def not_what_was_sealed(what: str, name: str | None = None, detail: str = "") -> ClovenError:
    """Return the error for a sealed file that cannot be opened."""
    asked = "" if name is None else f" than {name!r}"
    return ClovenError(
        f"cannot open {what}{detail}: it was changed, or sealed with another key or name{asked}; use the key and "
        "the name that it was sealed with, or copy it again"
    )
