"""The owner's key as a file, and the data key of each sealed folder, which follows from it.

The file is like a link's key file (see `cloven.runtime.link.keys`): 32 random bytes as 64 hexadecimal digits, for
its owner alone. It never leaves the owner's machine; what is released opens one sealed folder. No function here
prints a key or puts one, or any part of a file, in a message.
"""

from __future__ import annotations

from pathlib import Path

from cloven.enclave.sealing import derived
from cloven.errors import ClovenError
from cloven.runtime.link.keys import KeyFile

INFO = b"cloven data key"
OWNERS_KEY = KeyFile(
    name="owner's key",
    kept="what was sealed with it could never be opened; name another file",
    absent="; name the file that was made when the model was sealed",
    wrong="name the file that was made when the model was sealed",
    must="the owner's key must be your file",
)


def data_key(owner_key: bytes, folder_id: str) -> bytes:
    """Return the 32 bytes that open one sealed folder, and reveal neither the owner's key nor another folder's.

    Args:
        owner_key: 32 bytes, see `read_owner_key`.
        folder_id: the folder's number, not secret.

    Raises:
        ClovenError: for a key of another size, or no number.
    """
    if not folder_id:
        raise ClovenError("a sealed folder has no number; seal the model again")
    return derived(owner_key, INFO + folder_id.encode())


def new_owner_key(path: Path) -> None:
    """Write a new owner's key; see `KeyFile.new`."""
    OWNERS_KEY.new(path)


def read_owner_key(path: Path) -> bytes:
    """Return the 32 bytes of an owner's key; see `KeyFile.read`."""
    return OWNERS_KEY.read(path)
