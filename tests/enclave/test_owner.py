"""The owner's key yields a separate data key for each folder; its file is tested with that of a link."""

from __future__ import annotations

import hmac

import pytest

from cloven.enclave.owner import data_key
from cloven.errors import ClovenError


def test_each_folder_has_a_key_of_its_own() -> None:
    """Compare with a computation by hand: after a change, nobody could open existing sealed folders."""
    owner = bytes(range(32))
    secret = hmac.digest(bytes(32), owner, "sha256")

    assert data_key(owner, "f1") == hmac.digest(secret, b"cloven data keyf1\x01", "sha256")
    assert len({owner, data_key(owner, "f1"), data_key(owner, "f2"), data_key(bytes(32), "f1")}) == 4


def test_no_data_key_without_key_or_folder() -> None:
    with pytest.raises(ClovenError, match="the key has 31 bytes; expected 32"):
        data_key(bytes(31), "f1")
    with pytest.raises(ClovenError, match="the id of the sealed folder is empty"):
        data_key(bytes(32), "")
