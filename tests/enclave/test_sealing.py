"""Sealed files: they open to what was sealed, or not at all."""

from __future__ import annotations

import hmac
import io
import os
import stat
import struct
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cloven.enclave import sealing
from cloven.enclave.sealing import seal, sealed_bytes, unseal, unsealed_bytes
from cloven.errors import ClovenError

KEY = bytes(range(32))
CHUNK = 16
PLAINTEXT = bytes(range(200, 240))
"""Two and a half chunks."""
HEADER = 52


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.sealed"
    seal(PLAINTEXT, path, key=KEY, name="weights", chunk_bytes=CHUNK)
    return path


def refused(path: Path, *, key: bytes = KEY, name: str = "weights") -> str:
    with pytest.raises(ClovenError) as caught:
        unseal(path, key=key, name=name)
    said = str(caught.value)
    assert str(path) in said
    assert key.hex()[:8] not in said
    assert caught.value.__cause__ is None
    return said


def test_the_format_is_as_documented(file: Path) -> None:
    """Decode the format by hand, so that it cannot change unnoticed."""
    text = file.read_bytes()
    magic, salt, chunk, length = struct.unpack(">8s32sIQ", text[:HEADER])
    secret = hmac.digest(salt, KEY, "sha256")
    cipher = AESGCM(hmac.digest(secret, b"cloven sealed fileweights\x01", "sha256"))
    pieces = [text[HEADER:][start : start + CHUNK + 16] for start in range(0, 3 * (CHUNK + 16), CHUNK + 16)]
    nonces = [bytes(12), bytes(10) + b"\x01\x00", bytes(10) + b"\x02\x01"]

    assert (magic, chunk, length) == (b"CLVSEAL1", CHUNK, len(PLAINTEXT))
    opened = [cipher.decrypt(n, piece, text[:HEADER]) for n, piece in zip(nonces, pieces, strict=True)]
    assert b"".join(opened) == PLAINTEXT


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_any_length_comes_back(tmp_path: Path, length: int) -> None:
    plaintext = os.urandom(length)
    seal(plaintext, tmp_path / "f", key=KEY, name="n", chunk_bytes=CHUNK)

    assert unseal(tmp_path / "f", key=KEY, name="n") == plaintext
    assert (tmp_path / "f").stat().st_size == HEADER + length + 16 * max(1, -(-length // CHUNK))


@given(st.binary(max_size=70), st.binary(min_size=32, max_size=32), st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_in_memory_comes_back(plaintext: bytes, key: bytes, name: str) -> None:
    sealed = sealed_bytes(plaintext, key, name)

    assert unsealed_bytes(sealed, key, name) == plaintext
    assert sealed != sealed_bytes(plaintext, key, name)
    with pytest.raises(ClovenError, match="cannot open"):
        unsealed_bytes(sealed, key, name + "x")


def test_chunks_of_the_usual_size(tmp_path: Path) -> None:
    plaintext = memoryview(bytearray(os.urandom(2**20 + 3))).cast("B")
    seal(plaintext, tmp_path / "f", key=KEY, name="n")

    assert unseal(tmp_path / "f", key=KEY, name="n") == plaintext
    assert unsealed_bytes((tmp_path / "f").read_bytes(), KEY, "n") == plaintext


def test_files_and_memory_have_one_format(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(sealed_bytes(PLAINTEXT, KEY, "n"))

    assert unseal(tmp_path / "f", key=KEY, name="n") == PLAINTEXT


def test_every_changed_byte_is_refused(file: Path) -> None:
    text = file.read_bytes()
    for index in range(len(text)):
        for flip in (0x01, 0x80):
            changed = bytearray(text)
            changed[index] ^= flip
            file.write_bytes(changed)
            said = refused(file)
            assert ("cannot open" if index >= 8 else "is not a sealed file") in said, index


def test_every_truncation_and_extension_is_refused(file: Path) -> None:
    text = file.read_bytes()
    for size in range(len(text)):
        file.write_bytes(text[:size])
        assert ("cannot open" if size >= 8 else "is not a sealed file") in refused(file)
    for more in (b"\0", text[-8:], text[-24:], text):
        file.write_bytes(text + more)
        assert "cannot open" in refused(file)


def with_length(text: bytes, length: int) -> bytes:
    return text[:44] + length.to_bytes(8, "big") + text[HEADER:]


def chunk(index: int) -> slice:
    start = HEADER + index * (CHUNK + 16)
    return slice(start, start + CHUNK + 16)


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "exchanged": lambda t: t[:HEADER] + t[chunk(1)] + t[chunk(0)] + t[chunk(2)],
    "repeated": lambda t: t[:HEADER] + t[chunk(0)] + t[chunk(0)] + t[chunk(2)],
    "last left out": lambda t: with_length(t, 2 * CHUNK)[: chunk(2).start],
    "first left out": lambda t: with_length(t, 24)[:HEADER] + t[chunk(1)] + t[chunk(2)],
    "all left out": lambda t: with_length(t, 0)[:HEADER] + t[-16:],
    "one added": lambda t: with_length(t, 56)[: chunk(2).start] + t[chunk(1)] + t[chunk(2)],
    "bigger chunks": lambda t: t[:40] + (2 * CHUNK).to_bytes(4, "big") + t[44:-16],
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_chunks_keep_their_place(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))

    said = refused(file)
    assert "cannot open" in said
    assert "header" not in said, "the sizes fit, so that it is the tags that refuse"


def test_chunks_of_another_file_do_not_fit(file: Path, tmp_path: Path) -> None:
    seal(PLAINTEXT, tmp_path / "again", key=KEY, name="weights", chunk_bytes=CHUNK)
    file.write_bytes(file.read_bytes()[: chunk(1).start] + (tmp_path / "again").read_bytes()[chunk(1).start :])

    assert "cannot open" in refused(file)


def test_another_key_or_name_opens_nothing(file: Path, tmp_path: Path) -> None:
    for bit in (0, 255):
        key = bytearray(KEY)
        key[bit // 8] ^= 1 << bit % 8
        assert "sealed with another key or name than 'weights'" in refused(file, key=bytes(key))
    for name in ("", "weight", "weightss", "Weights"):
        assert f"than {name!r}" in refused(file, name=name)
    seal(b"other", tmp_path / "plan.sealed", key=KEY, name="plan")
    (tmp_path / "plan.sealed").replace(file)
    refused(file)


@pytest.mark.parametrize(
    ("size", "length"), [(0, 40), (2**26 + 1, 72), (2**32 - 1, 72), (CHUNK, 2**64 - 1), (CHUNK, 2**62), (CHUNK, 41)]
)
def test_a_header_is_believed_only_where_the_size_agrees(file: Path, size: int, length: int) -> None:
    """The length is checked before memory is allocated; one chunk of 72 bytes would just fit."""
    text = file.read_bytes()
    file.write_bytes(text[:40] + size.to_bytes(4, "big") + length.to_bytes(8, "big") + text[HEADER:])

    assert "its size of 140 bytes contradicts its header" in refused(file)


def test_a_file_that_shrinks_while_it_is_read_is_refused(file: Path) -> None:
    text = file.read_bytes()
    for size in range(HEADER, len(text)):
        with pytest.raises(ClovenError, match="cannot open"):
            sealing.opened(io.BytesIO(text[:size]), len(text), "f", KEY, "weights")


def test_files_that_are_not_sealed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"PK\3\4" * 40)
    os.mkfifo(tmp_path / "pipe")

    assert "its 160 bytes do not begin with CLVSEAL1; give a file that cloven sealed" in refused(tmp_path / "zip")
    for path in (tmp_path, tmp_path / "pipe"):
        assert "expected a regular file" in refused(path)
    with pytest.raises(ClovenError, match=r"cannot read .*absent: No such file"):
        unseal(tmp_path / "absent", key=KEY, name="n")


def test_keys_and_chunks_of_other_sizes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for size in (0, 16, 31, 33):
        with pytest.raises(ClovenError, match=f"the key has {size} bytes; expected 32"):
            seal(b"", tmp_path / "f", key=bytes(size), name="n")
    for size in (0, -1, 2**26 + 1):
        with pytest.raises(ClovenError, match=f"the chunk size is {size}; expected 1 to 67108864 bytes"):
            seal(b"", tmp_path / "f", key=KEY, name="n", chunk_bytes=size)

    assert not list(tmp_path.iterdir())


def test_only_ciphertext_is_written_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[int, bytes]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        parts.append((stat.S_IMODE(self.stat().st_mode), self.read_bytes()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    before = os.umask(0)
    try:
        seal(PLAINTEXT, tmp_path / "f", key=KEY, name="weights", chunk_bytes=CHUNK)
    finally:
        os.umask(before)

    assert [mode for mode, _ in parts] == [0o600]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert (tmp_path / "f").read_bytes() == parts[0][1]
    for start in range(len(PLAINTEXT) - 3):
        assert PLAINTEXT[start : start + 4] not in parts[0][1]


def test_it_is_private_before_anything_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []

    def watched(*_: object) -> None:
        seen.extend((stat.S_IMODE(p.stat().st_mode), p.stat().st_size, p.suffix) for p in tmp_path.iterdir())

    monkeypatch.setattr(sealing, "write_chunks", watched)
    seal(PLAINTEXT, tmp_path / "f", key=KEY, name="n")

    assert seen == [(0o600, 0, ".part")]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = file.read_bytes()

    def failing(data: object, out: BufferedIOBase, *_: object) -> None:
        out.write(b"half")
        raise error

    monkeypatch.setattr(sealing, "write_chunks", failing)
    with pytest.raises((ClovenError, KeyboardInterrupt)) as caught:
        seal(PLAINTEXT, file, key=KEY, name="weights")

    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == before
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"cannot write {file}: No space left on device; ")


def test_where_it_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ClovenError, match=r"cannot write .*folder: it is a folder, a pipe or a device"):
        seal(PLAINTEXT, tmp_path / "folder", key=KEY, name="n")
    (tmp_path / "file").touch()
    with pytest.raises(ClovenError, match=r"cannot write .*/file/f: .*/file is not a folder"):
        seal(PLAINTEXT, tmp_path / "file" / "f", key=KEY, name="n")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_clear_error(text: bytes) -> None:
    for sealed in (text, b"CLVSEAL1" + text):
        with pytest.raises(ClovenError, match=r"cannot open 'n'|'n' is not a sealed file"):
            unsealed_bytes(sealed, KEY, "n")
