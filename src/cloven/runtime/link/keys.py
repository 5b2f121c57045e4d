"""Files of secret keys: 32 random bytes as 64 hexadecimal digits, readable by their owner only.

No message contains a key, or any part of a file.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloven.errors import ClovenError

SIZE = 32
TEXT = re.compile(rb"[0-9a-fA-F]{64}\n?")


LINK_MUST = "a link's key must be your own file"


@dataclass(frozen=True)
class KeyFile:
    """A kind of key file, and the parts of its error messages.

    Attributes:
        name: the name of the kind.
        kept: what to do if the file exists already.
        absent: what to do if the file is missing.
        wrong: what to do if the file is not a key.
        must: the required owner.
    """

    name: str
    kept: str
    absent: str
    wrong: str
    must: str

    def new(self, path: Path) -> None:
        """Write a new random key to a file that does not exist yet; no other user can read it at any time.

        Raises:
            ClovenError: if the path exists already, or the file cannot be written.
        """
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ClovenError(f"{path} exists, and keys are never overwritten: {self.kept}") from None
        except OSError as error:
            raise ClovenError(f"cannot write the {self.name} {path}: {error.strerror}") from error
        try:
            with os.fdopen(file, "wb") as out:
                out.write(secrets.token_hex(SIZE).encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise ClovenError(f"cannot write the {self.name} {path}: {error.strerror}") from error

    def read(self, path: Path) -> bytes:
        """Return the 32 bytes of a key file.

        The checks apply to the opened file, so that it cannot be replaced in between.

        Raises:
            ClovenError: if the file is missing, not a regular file, not a key, belongs to another user, or is
                accessible to others.
        """
        about, text = self._opened(path)
        problems = access_problems(path, about, self.must)
        if not TEXT.fullmatch(text):
            problems.append(
                f"{path} is not a {self.name}: it has {about.st_size} bytes; expected one line of 64 hexadecimal "
                f"digits: {self.wrong}"
            )
        if problems:
            raise ClovenError(problems)
        return bytes.fromhex(text.decode())

    def _opened(self, path: Path) -> tuple[os.stat_result, bytes]:
        """Return the status of a file, and its first bytes, one more than a key has."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ClovenError(f"the {self.name} {path} is missing{self.absent}") from None
        except OSError as error:
            if path.is_symlink():
                raise ClovenError(f"the {self.name} {path} is a symbolic link; name the file itself") from None
            raise ClovenError(f"cannot read the {self.name} {path}: {error.strerror}") from error
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode):
                raise ClovenError(f"the {self.name} {path} is not a regular file; name the file that holds the key")
            # One byte more than a key and its newline, to detect a file that is too long.
            return about, os.read(file, 2 * SIZE + 2)
        except OSError as error:
            raise ClovenError(f"cannot read the {self.name} {path}: {error.strerror}") from error
        finally:
            os.close(file)


LINK_KEY = KeyFile(
    name="link key",
    kept="remove it on both devices, or name another file",
    absent=": create one, and copy it to both devices of the link",
    wrong="copy the file again, or create a new key",
    must=LINK_MUST,
)


def read_link_key(path: Path) -> bytes:
    """Return the 32 bytes of a link key; see `KeyFile.read`."""
    return LINK_KEY.read(path)


def access_problems(path: Path, about: os.stat_result, must: str = LINK_MUST) -> list[str]:
    """Return errors if another user owns or can access a key file."""
    problems = []
    if about.st_uid != os.geteuid():
        problems.append(f"{path} belongs to another user (uid {about.st_uid}); {must}")
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        problems.append(
            f"{path} is accessible to other users (mode {mode:04o}, expected 0600); run: chmod 600 {path}"
        )
    return problems
