"""Secret keys as files, a link's among them: 32 random bytes as 64 hexadecimal digits, for their owner alone.

No function here prints a key or puts one, or any part of a file, in a message.
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
    """A kind of key file, in the words of its messages.

    Attributes:
        name: of the kind.
        kept: why none is overwritten, and what to do instead.
        absent: what to do if there is none.
        wrong: what to do if it holds something else.
        must: the owner that it must have.
    """

    name: str
    kept: str
    absent: str
    wrong: str
    must: str

    def new(self, path: Path) -> None:
        """Write a new random key to a file that does not exist yet; nobody else can read it at any moment.

        Raises:
            ClovenError: if something is there already, or the file cannot be written.
        """
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ClovenError(f"{path} exists, and no {self.name} is overwritten: {self.kept}") from None
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

        What is checked is the file that was opened, so that it cannot be exchanged in between.

        Raises:
            ClovenError: if it is missing, a symbolic link, not a file, another user's, open to others, or no key.
        """
        about, text = self._opened(path)
        problems = access_problems(path, about, self.must)
        if not TEXT.fullmatch(text):
            problems.append(
                f"{path} holds no {self.name}: it has {about.st_size} bytes and must have 64 hexadecimal digits on "
                f"one line; {self.wrong}"
            )
        if problems:
            raise ClovenError(problems)
        return bytes.fromhex(text.decode())

    def _opened(self, path: Path) -> tuple[os.stat_result, bytes]:
        """Return the status of a file, and as many bytes as tell a key from what is longer."""
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
            # One byte more than a key with its newline tells a file that is too long.
            return about, os.read(file, 2 * SIZE + 2)
        except OSError as error:
            raise ClovenError(f"cannot read the {self.name} {path}: {error.strerror}") from error
        finally:
            os.close(file)


LINK_KEY = KeyFile(
    name="link key",
    kept="remove it on both devices, or name another file",
    absent=": make one, and copy it to both devices of the link",
    wrong="copy the file again, or make a new key",
    must=LINK_MUST,
)


def read_link_key(path: Path) -> bytes:
    """Return the 32 bytes of a link key; see `KeyFile.read`."""
    return LINK_KEY.read(path)


def access_problems(path: Path, about: os.stat_result, must: str = LINK_MUST) -> list[str]:
    """Return who else could read or change a key file."""
    problems = []
    if about.st_uid != os.geteuid():
        problems.append(f"{path} belongs to another user (uid {about.st_uid}); {must}")
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        problems.append(f"{path} is open to others (mode {mode:04o}, expected 0600); run: chmod 600 {path}")
    return problems
