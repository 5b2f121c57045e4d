"""The owner's key file, and the data keys of sealed folders, which are derived from it.

The file has the format of a link's key file (see `cloven.runtime.link.keys`): 32 random bytes as 64 hexadecimal
digits, readable by its owner only. It never leaves the owner's machine; a released data key opens one sealed
folder. No function here prints a key, or puts a key or any part of a file into a message.
"""

from __future__ import annotations

from pathlib import Path

from cloven.enclave.sealing import derived
from cloven.errors import ClovenError
from cloven.runtime.link.keys import KeyFile

INFO = b"cloven data key"
OWNERS_KEY = KeyFile(
    name="owner's key",
    kept="files sealed with it could never be opened again; choose another file",
    absent="; give the file that was created when the model was sealed",
    wrong="give the file that was created when the model was sealed",
    must="the owner's key must be your file",
)


def data_key(owner_key: bytes, folder_id: str) -> bytes:
    """Return the 32-byte key of one sealed folder; it reveals neither the owner's key nor another folder's.

    Args:
        owner_key: 32 bytes, see `read_owner_key`.
        folder_id: the folder's id, not secret.

    Raises:
        ClovenError: if the key has another size, or the id is empty.
    """
    if not folder_id:
        raise ClovenError("the id of the sealed folder is empty; seal the model again")
    return derived(owner_key, INFO + folder_id.encode())


def new_owner_key(path: Path) -> None:
    """Write a new owner's key; see `KeyFile.new`."""
    OWNERS_KEY.new(path)


def read_owner_key(path: Path) -> bytes:
    """Return the 32 bytes of an owner's key; see `KeyFile.read`."""
    return OWNERS_KEY.read(path)
