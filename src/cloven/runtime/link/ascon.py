"""Ascon-128 (v1.2, the CAESAR winner) and Ascon-AEAD128 (NIST SP 800-232), authenticated encryption in numba.

Neither is audited for side channels: the compiled code has no branch and no table that depends on a key or on data,
but nobody has looked at what the compiler made of it, and keys lie in Python's memory. Good for measuring a cipher
as a variable of an experiment.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

from cloven.errors import ClovenError, require
from cloven.runtime.link.errors import WrongTag
from cloven.runtime.link.octets import octets, sized, writable

if TYPE_CHECKING:
    import numpy as np

    from cloven.runtime.link.octets import Data

    Octets = np.ndarray[tuple[int], np.dtype[np.uint8]]

KEY = NONCE = TAG = 16
Variant = Literal["ascon-128", "ascon-aead128"]
WORDS: dict[Variant, struct.Struct] = {"ascon-128": struct.Struct(">2Q"), "ascon-aead128": struct.Struct("<2Q")}
"""How each variant reads a key or a nonce as two words."""


@cache
def kernels() -> dict[Variant, Callable[..., None]]:
    """Return the compiled modes: about two seconds the first time on a machine, then from numba's cache.

    Raises:
        ClovenError: without numba, or if numba finds no folder for its cache.
    """
    try:
        from cloven.runtime.link import ascon_kernel
    except ImportError as error:
        raise require("ascon", error) from error
    except RuntimeError as error:
        raise ClovenError(
            f"numba cannot keep its compiled code ({error}); set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error
    return {"ascon-128": ascon_kernel.ascon_128, "ascon-aead128": ascon_kernel.ascon_aead128}


def run(
    variant: Variant,
    key: Data,
    nonce: Data,
    associated: Data,
    data: memoryview,
    out: memoryview,
    opening: bool,
) -> Octets:
    """Encrypt or decrypt `data` into `out`, of the same size: the tag, 16 bytes."""
    import numpy as np

    words = WORDS[variant]
    secret, number = sized(variant, key, nonce, KEY, NONCE)
    tag = np.empty(TAG, np.uint8)
    buffers = (np.frombuffer(view, np.uint8) for view in (octets(associated), data, out))
    kernels()[variant](*words.unpack(secret), *words.unpack(number), *buffers, tag, opening)
    return tag


def seal_into(
    key: Data,
    nonce: Data,
    associated: Data,
    plaintext: Data,
    out: Data,
    *,
    variant: Variant = "ascon-aead128",
) -> None:
    """Encrypt and authenticate: ciphertext and its 16-byte tag, into a buffer of their size.

    Args:
        key: 16 bytes.
        nonce: 16 bytes, never twice with the same key.
        associated: any number of bytes, authenticated and not sent.
        plaintext: any number of bytes, of any contiguous buffer that does not overlap `out`.
        out: a buffer that can be written, 16 bytes longer than the plaintext.
        variant: which of the two algorithms.

    Raises:
        LinkError: for a key, nonce or buffer of another size, or a buffer that is not contiguous.
        ClovenError: without numba; there is no slow substitute.
    """
    data = octets(plaintext)
    whole = writable(out, data.nbytes + TAG)
    whole[data.nbytes :] = run(variant, key, nonce, associated, data, whole[: data.nbytes], False).data


def open_into(
    key: Data,
    nonce: Data,
    associated: Data,
    sealed: Data,
    out: Data,
    *,
    variant: Variant = "ascon-aead128",
) -> None:
    """Check and decrypt what `seal_into` gave, into a buffer 16 bytes shorter; tags are compared in constant time.

    Raises:
        WrongTag: if anything differs from what was sealed, or the tag is not there; `out` then holds zeros.
        LinkError: for a key, nonce or buffer of another size, or a buffer that is not contiguous.
        ClovenError: without numba.
    """
    view = octets(sealed)
    size = view.nbytes - TAG
    if size < 0:
        raise WrongTag(variant)
    whole = writable(out, size)
    tag = run(variant, key, nonce, associated, view[:size], whole, True)
    if not hmac.compare_digest(tag.data, view[size:]):
        whole[:] = bytes(size)
        raise WrongTag(variant)


def seal(key: Data, nonce: Data, associated: Data, plaintext: Data, *, variant: Variant = "ascon-aead128") -> bytes:
    """Ciphertext and its 16-byte tag; arguments and errors as `seal_into`."""
    out = bytearray(octets(plaintext).nbytes + TAG)
    seal_into(key, nonce, associated, plaintext, out, variant=variant)
    return bytes(out)


def open(  # noqa: A001
    key: Data, nonce: Data, associated: Data, sealed: Data, *, variant: Variant = "ascon-aead128"
) -> bytes:
    """Return the plaintext of what `seal` returned; arguments and errors as `open_into`."""
    out = bytearray(max(0, octets(sealed).nbytes - TAG))
    open_into(key, nonce, associated, sealed, out, variant=variant)
    return bytes(out)
