"""The owner's key: private from the first moment, read only where it is what it should be; one key a folder."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path
from typing import IO, Any

import pytest

from cloven.enclave.owner import data_key, new_owner_key, read_owner_key
from cloven.errors import ClovenError

HEX = "0123456789abcdef" * 4


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "owner.key"
    new_owner_key(path)
    return path


def test_a_new_key_is_private_random_and_read_back(key: Path, tmp_path: Path) -> None:
    new_owner_key(tmp_path / "other.key")

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(read_owner_key(key)) == 32
    assert key.read_text("ascii") == read_owner_key(key).hex() + "\n"
    assert read_owner_key(key) != read_owner_key(tmp_path / "other.key")


def test_it_is_private_from_its_creation_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[os.stat_result] = []
    opened = os.fdopen

    def watched(file: int, mode: str) -> IO[Any]:
        seen.append(os.fstat(file))
        return opened(file, mode)

    monkeypatch.setattr(os, "fdopen", watched)
    before = os.umask(0)
    try:
        new_owner_key(tmp_path / "owner.key")
    finally:
        os.umask(before)

    assert [(stat.S_IMODE(s.st_mode), s.st_size) for s in seen] == [(0o600, 0)]


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = key.read_text("ascii")
    (tmp_path / "to-nothing").symlink_to("nothing")
    for path in (key, tmp_path / "to-nothing", tmp_path):
        with pytest.raises(ClovenError, match="exists, and no owner's key is overwritten"):
            new_owner_key(path)
    with pytest.raises(ClovenError, match=r"cannot write the owner's key .*: No such file"):
        new_owner_key(tmp_path / "no" / "owner.key")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClovenError, match=r"cannot write the owner's key .*: No space left"):
        new_owner_key(tmp_path / "new.key")

    assert key.read_text("ascii") == text
    assert not (tmp_path / "nothing").exists()
    assert not (tmp_path / "new.key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o777])
def test_files_open_to_others_are_refused(key: Path, mode: int) -> None:
    key.chmod(mode)

    with pytest.raises(ClovenError, match=rf"is open to others \(mode {mode:04o}, expected 0600\); run: chmod 600"):
        read_owner_key(key)
    key.chmod(0o400)
    assert read_owner_key(key)


@pytest.mark.parametrize(
    "text", ["", "\n", HEX[:-1], HEX + "00", HEX + "\n\n", " " + HEX, HEX[:-1] + "g", HEX[:32] + " " + HEX[32:]]
)
def test_files_that_hold_no_key_are_refused_and_not_shown(key: Path, text: str) -> None:
    key.write_text(text, "utf-8")

    with pytest.raises(ClovenError, match=r"holds no owner's key.*64 hexadecimal digits on one line") as caught:
        read_owner_key(key)
    assert HEX[:8] not in str(caught.value)
    assert caught.value.__context__ is None


def test_all_problems_are_told_at_once(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key.write_text("short")
    key.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)

    with pytest.raises(ClovenError, match="belongs to another user") as caught:
        read_owner_key(key)
    assert len(caught.value.problems) == 3


def test_what_is_no_file_is_refused(key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe", 0o600)

    for name in ("link", "dangling"):
        with pytest.raises(ClovenError, match="is a symbolic link; name the file itself"):
            read_owner_key(tmp_path / name)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ClovenError, match="is no regular file"):
            read_owner_key(path)
    with pytest.raises(ClovenError, match="is missing; name the file that was made"):
        read_owner_key(tmp_path / "absent")


def test_each_folder_has_a_key_of_its_own() -> None:
    """Computed by hand as well: a change would lock everybody out of what they sealed."""
    owner = bytes(range(32))
    secret = hmac.digest(bytes(32), owner, "sha256")

    assert data_key(owner, "f1") == hmac.digest(secret, b"cloven data keyf1\x01", "sha256")
    assert len({owner, data_key(owner, "f1"), data_key(owner, "f2"), data_key(bytes(32), "f1")}) == 4


def test_no_data_key_without_key_or_folder() -> None:
    with pytest.raises(ClovenError, match="a key has 32 bytes, not 31"):
        data_key(bytes(31), "f1")
    with pytest.raises(ClovenError, match="has no number"):
        data_key(bytes(32), "")
