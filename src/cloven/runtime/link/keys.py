"""The pre-shared key of a link as a file: 32 random bytes as 64 hexadecimal digits, for its owner alone.

No function here prints a key or puts one, or any part of a file, in a message.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from cloven.errors import ClovenError

SIZE = 32
TEXT = re.compile(rb"[0-9a-fA-F]{64}\n?")


def new_link_key(path: Path) -> None:
    """Write a new random key to a file that does not exist yet; nobody else can read it at any moment.

    Raises:
        ClovenError: where something is there already, or the file cannot be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ClovenError(
            f"{path} exists, and no link key is overwritten: remove it on both devices, or name another file"
        ) from None
    except OSError as error:
        raise ClovenError(f"cannot write the link key {path}: {error.strerror}") from error
    try:
        with os.fdopen(file, "wb") as out:
            out.write(secrets.token_hex(SIZE).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ClovenError(f"cannot write the link key {path}: {error.strerror}") from error


def read_link_key(path: Path) -> bytes:
    """The 32 bytes of a key file.

    What is checked is the file that was opened, so that it cannot be exchanged in between.

    Raises:
        ClovenError: where it is missing, a symbolic link, not a file, another user's, open to others, or no key.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ClovenError(
            f"the link key {path} is missing: make one, and copy it to both devices of the link"
        ) from None
    except OSError as error:
        if path.is_symlink():
            raise ClovenError(f"the link key {path} is a symbolic link; name the file itself") from None
        raise ClovenError(f"cannot read the link key {path}: {error.strerror}") from error
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise ClovenError(f"the link key {path} is no regular file; name the file that holds the key")
        # One byte more than a key with its newline tells a file that is too long.
        text = os.read(file, 2 * SIZE + 2)
    except OSError as error:
        raise ClovenError(f"cannot read the link key {path}: {error.strerror}") from error
    finally:
        os.close(file)
    problems = access_problems(path, about)
    if not TEXT.fullmatch(text):
        problems.append(
            f"{path} holds no link key: it has {about.st_size} bytes and must have 64 hexadecimal digits on one "
            "line; copy the file again, or make a new key"
        )
    if problems:
        raise ClovenError(problems)
    return bytes.fromhex(text.decode())


def access_problems(path: Path, about: os.stat_result) -> list[str]:
    """Who else could read or change a key file."""
    problems = []
    if about.st_uid != os.geteuid():
        problems.append(f"{path} belongs to another user (uid {about.st_uid}); a link's key must be your own file")
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        problems.append(f"{path} is open to others (mode {mode:04o}, expected 0600); run: chmod 600 {path}")
    return problems
