"""Key files of links and owners: private from their creation, and checked when they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from cloven.enclave.owner import new_owner_key, read_owner_key
from cloven.errors import ClovenError
from cloven.runtime.link.keys import LINK_KEY, read_link_key

HEX = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Kind:
    """A kind of key file, and its messages."""

    new: Callable[[Path], None]
    read: Callable[[Path], bytes]
    name: str
    kept: str
    absent: str


KINDS = {
    "link": Kind(
        LINK_KEY.new,
        read_link_key,
        "link key",
        "remove it on both devices",
        "is missing: create one, and copy it to both devices",
    ),
    "owner": Kind(
        new_owner_key,
        read_owner_key,
        "owner's key",
        "files sealed with it could never be opened again",
        "is missing; give the file that was created when the model was sealed",
    ),
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def key(kind: Kind, tmp_path: Path) -> Path:
    path = tmp_path / "own.key"
    kind.new(path)
    return path


def test_a_new_key_is_private_random_and_read_back(kind: Kind, key: Path, tmp_path: Path) -> None:
    kind.new(tmp_path / "other.key")

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(kind.read(key)) == 32
    assert key.read_text("ascii") == kind.read(key).hex() + "\n"
    assert kind.read(key) != kind.read(tmp_path / "other.key")


def test_it_is_private_from_its_creation_whatever_the_umask(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[os.stat_result] = []
    opened = os.fdopen

    def watched(file: int, mode: str) -> IO[Any]:
        seen.append(os.fstat(file))
        return opened(file, mode)

    monkeypatch.setattr(os, "fdopen", watched)
    before = os.umask(0)
    try:
        kind.new(tmp_path / "own.key")
    finally:
        os.umask(before)

    assert [(stat.S_IMODE(s.st_mode), s.st_size) for s in seen] == [(0o600, 0)]


def test_nothing_is_overwritten(kind: Kind, key: Path, tmp_path: Path) -> None:
    text = key.read_text("ascii")
    (tmp_path / "target").write_text("precious")
    (tmp_path / "to-file").symlink_to("target")
    (tmp_path / "to-nothing").symlink_to("nothing")
    for path in (key, tmp_path / "to-file", tmp_path / "to-nothing", tmp_path):
        with pytest.raises(ClovenError, match=f"exists, and keys are never overwritten: {kind.kept}"):
            kind.new(path)

    assert key.read_text("ascii") == text
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_where_it_cannot_be_written(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match=f"cannot write the {kind.name} .*: No such file"):
        kind.new(tmp_path / "no" / "own.key")


def test_nothing_half_written_stays(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClovenError, match=f"cannot write the {kind.name} .*: No space left"):
        kind.new(tmp_path / "new.key")

    assert not (tmp_path / "new.key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o610, 0o644, 0o777])
def test_files_open_to_others_are_refused(kind: Kind, key: Path, mode: int) -> None:
    key.chmod(mode)

    with pytest.raises(
        ClovenError, match=rf"is accessible to other users \(mode {mode:04o}, expected 0600\); run: chmod 600"
    ):
        kind.read(key)
    key.chmod(0o400)
    assert kind.read(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        HEX[:-1],
        HEX[:-2],
        HEX + "00",
        HEX + "\n\n",
        " " + HEX,
        HEX[:-1] + "g",
        HEX[:32] + " " + HEX[32:],
        "é" * 32,
    ],
)
def test_files_that_hold_no_key_are_refused_and_not_shown(kind: Kind, key: Path, text: str) -> None:
    key.write_text(text, "utf-8")

    with pytest.raises(ClovenError, match=rf"is not a {kind.name}.*one line of 64 hexadecimal digits") as caught:
        kind.read(key)
    assert HEX[:8] not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_key_needs_no_newline_and_may_be_in_capitals(kind: Kind, key: Path) -> None:
    for text in (HEX, HEX.upper(), HEX + "\n"):
        key.write_text(text)
        assert kind.read(key) == bytes.fromhex(HEX)


def test_all_problems_are_told_at_once(kind: Kind, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key.write_text("short")
    key.chmod(0o644)

    with pytest.raises(ClovenError) as caught:
        kind.read(key)
    assert len(caught.value.problems) == 2
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)

    with pytest.raises(ClovenError, match="belongs to another user") as caught:
        kind.read(key)
    assert len(caught.value.problems) == 3


def test_other_peoples_keys_are_refused(kind: Kind, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)

    with pytest.raises(ClovenError, match="belongs to another user"):
        kind.read(key)


def test_what_is_no_file_is_refused(kind: Kind, key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe", 0o600)

    for name in ("link", "dangling"):
        with pytest.raises(ClovenError, match="is a symbolic link; name the file itself"):
            kind.read(tmp_path / name)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ClovenError, match="is not a regular file"):
            kind.read(path)
    with pytest.raises(ClovenError, match=kind.absent):
        kind.read(tmp_path / "absent")
