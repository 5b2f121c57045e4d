"""Ascon-128 (v1.2, the CAESAR winner) and Ascon-AEAD128 (NIST SP 800-232), authenticated encryption in numba.

Neither is audited for side channels. The source has no branch and no table look-up that depends on a key or on
data, but the compiled code was not inspected, and keys are kept in Python's memory. The implementations are meant
for measurements of cipher costs.
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
"""The layout of a key or a nonce as two words, by variant."""


@cache
def kernels() -> dict[Variant, Callable[..., None]]:
    """Return the compiled modes; compiling takes about two seconds, once per machine, and is cached by numba.

    Raises:
        ClovenError: if numba is not installed, or finds no folder for its cache.
    """
    try:
        from cloven.runtime.link import ascon_kernel
    except ImportError as error:
        raise require("ascon", error) from error
    except RuntimeError as error:
        raise ClovenError(
            f"numba cannot cache its compiled code ({error}); set NUMBA_CACHE_DIR to a writable folder"
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
    """Encrypt or decrypt `data` into `out`, which has the same size; return the tag of 16 bytes."""
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
    """Encrypt and authenticate a plaintext; write the ciphertext and its 16-byte tag into a buffer.

    Args:
        key: 16 bytes.
        nonce: 16 bytes, which must never be used twice with the same key.
        associated: the associated data, of any size: authenticated but not sent.
        plaintext: a contiguous buffer of any size that does not overlap `out`.
        out: a writable buffer, 16 bytes longer than the plaintext.
        variant: one of the two algorithms.

    Raises:
        LinkError: for a key, nonce or buffer of another size, or a buffer that is not contiguous.
        ClovenError: if numba is not installed; there is no pure Python implementation.
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
    """Verify and decrypt the output of `seal_into` into a buffer 16 bytes shorter; compare tags in constant time.

    Raises:
        WrongTag: if the tag is wrong or missing; `out` then contains zeros.
        LinkError: for a key, nonce or buffer of another size, or a buffer that is not contiguous.
        ClovenError: if numba is not installed.
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
    """Return the ciphertext and its 16-byte tag; arguments and errors as for `seal_into`."""
    out = bytearray(octets(plaintext).nbytes + TAG)
    seal_into(key, nonce, associated, plaintext, out, variant=variant)
    return bytes(out)


def open(  # noqa: A001
    key: Data, nonce: Data, associated: Data, sealed: Data, *, variant: Variant = "ascon-aead128"
) -> bytes:
    """Return the plaintext of a message that `seal` returned; arguments and errors as for `open_into`."""
    out = bytearray(max(0, octets(sealed).nbytes - TAG))
    open_into(key, nonce, associated, sealed, out, variant=variant)
    return bytes(out)
