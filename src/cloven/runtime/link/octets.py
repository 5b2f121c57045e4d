"""Buffers as bytes without a copy, and the sizes of keys and nonces."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cloven.runtime.link.errors import LinkError

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    import numpy as np
    from typing_extensions import Buffer

    # Before Python 3.12, numpy does not tell type checkers that its arrays are buffers.
    Data: TypeAlias = Buffer | np.ndarray[Any, np.dtype[Any]]


def octets(data: Data) -> memoryview:
    """Return the bytes of a buffer in memory order, any shape and item size, not copied.

    Raises:
        LinkError: if the buffer is not contiguous.
    """
    view = memoryview(cast("Buffer", data))
    if not view.c_contiguous:
        raise LinkError(
            f"a buffer of shape {view.shape} is not contiguous; copy it first (numpy.ascontiguousarray)"
        )
    # A view with a zero in its shape cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def writable(out: Data, size: int) -> memoryview:
    """Return the bytes of a buffer to write `size` bytes to.

    Raises:
        LinkError: if it has another size or cannot be written.
    """
    view = octets(out)
    if view.nbytes != size or view.readonly:
        kind = "read-only" if view.readonly else "writable"
        raise LinkError(f"a writable buffer of {size} bytes is needed, not a {kind} one of {view.nbytes}")
    return view


def sized(cipher: str, key: Data, nonce: Data, key_bytes: int, nonce_bytes: int) -> tuple[memoryview, memoryview]:
    """Return a key and a nonce of just the cipher's sizes.

    Raises:
        LinkError: naming the sizes, never the bytes.
    """
    views = octets(key), octets(nonce)
    given = views[0].nbytes, views[1].nbytes
    if given != (key_bytes, nonce_bytes):
        raise LinkError(
            f"{cipher}: the key has {given[0]} bytes and the nonce {given[1]}, not {key_bytes} and {nonce_bytes}"
        )
    return views
