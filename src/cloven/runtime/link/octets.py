"""Views of buffers as bytes, and checks of the sizes of keys and nonces."""

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
    """Return a view of the bytes of a buffer in memory order, whatever its shape and item size.

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
    """Return a writable view of a buffer of `size` bytes.

    Raises:
        LinkError: if the buffer has another size or is read-only.
    """
    view = octets(out)
    if view.nbytes != size or view.readonly:
        kind = "read-only" if view.readonly else "writable"
        raise LinkError(f"got a {kind} buffer of {view.nbytes} bytes; expected a writable one of {size} bytes")
    return view


def sized(cipher: str, key: Data, nonce: Data, key_bytes: int, nonce_bytes: int) -> tuple[memoryview, memoryview]:
    """Return views of a key and a nonce, which must have the cipher's sizes.

    Raises:
        LinkError: with the wrong sizes, never with the bytes.
    """
    views = octets(key), octets(nonce)
    given = views[0].nbytes, views[1].nbytes
    if given != (key_bytes, nonce_bytes):
        raise LinkError(
            f"{cipher}: got {given[0]} bytes of key and {given[1]} of nonce; expected {key_bytes} and {nonce_bytes}"
        )
    return views
