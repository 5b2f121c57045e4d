"""The imports of the package."""

from __future__ import annotations

from tests.test_architecture import loaded


def test_the_room_brings_nothing_heavy_until_it_is_used() -> None:
    heavy = {"torch", "numpy", "numba", "cryptography", "scipy"}

    assert not loaded("import cloven.runtime.link.session, cloven.runtime.link.keys") & heavy


def test_frames_of_aes_bring_neither_numba_nor_torch() -> None:
    used = (
        "from cloven.runtime.link.session import Sealer; from cloven.runtime.link.ciphers import named; "
        "Sealer(bytes(16), named('aes-128-gcm'), bytes(16)).seal(0, 0, b'')"
    )

    assert not loaded(used) & {"torch", "numba", "numpy"}
