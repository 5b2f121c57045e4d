"""Ascon's permutation and its two modes over 64-bit words, compiled by numba.

`ascon` imports this module at its first use, as it imports numba. Every operand is a ``uint64``, because numba
combines a ``uint64`` and an ``int64`` to a float. Helpers are plain functions, small enough for LLVM to inline;
``inline="always"`` would compile for minutes. Words are read and written by bytes, which LLVM merges to whole loads
and stores, so buffers need no alignment.

Sources: Dobraunig, Eichlseder, Mendel, Schlaeffer, "Ascon v1.2" (2021); NIST SP 800-232 (2025).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]
Octets = np.ndarray[tuple[int], np.dtype[np.uint8]]

U = np.uint64
EIGHT = U(8)
SIXTEEN = U(16)
ASCON_128_IV = U(0x80400C0600000000)
ASCON_AEAD128_IV = U(0x00001000808C0001)
LAST_BIT = U(1)
TOP_BIT = U(1 << 63)
READ = types.Array(types.uint8, 1, "C", readonly=True)
WRITTEN = types.Array(types.uint8, 1, "C")
# One signature serves all buffers: a writable array is read as well as a read-only one.
SIGNATURE = types.void(*[types.uint64] * 4, READ, READ, WRITTEN, WRITTEN, types.boolean)


@njit(cache=True)
def rotated(x: U, n: int) -> U:
    """Return a word rotated right by n bits, 0 < n < 64."""
    return (x >> U(n)) | (x << U(64 - n))


@njit(cache=True)
def round_of(s: Words, constant: int) -> Words:
    """Return the state after one round: constant, substitution, linear diffusion."""
    x0, x1, x2, x3, x4 = s
    x2 ^= U(constant)
    x0 ^= x4
    x4 ^= x3
    x2 ^= x1
    y0 = x0 ^ (~x1 & x2)
    y1 = x1 ^ (~x2 & x3)
    y2 = x2 ^ (~x3 & x4)
    y3 = x3 ^ (~x4 & x0)
    y4 = x4 ^ (~x0 & x1)
    y1 ^= y0
    y0 ^= y4
    y3 ^= y2
    y2 = ~y2
    return (
        y0 ^ rotated(y0, 19) ^ rotated(y0, 28),
        y1 ^ rotated(y1, 61) ^ rotated(y1, 39),
        y2 ^ rotated(y2, 1) ^ rotated(y2, 6),
        y3 ^ rotated(y3, 10) ^ rotated(y3, 17),
        y4 ^ rotated(y4, 7) ^ rotated(y4, 41),
    )


@njit(cache=True)
def permuted(s: Words, rounds: int) -> Words:
    """Return the state after the last `rounds` of twelve; loops over data repeat it, as LLVM does not inline."""
    for i in range(12 - rounds, 12):
        s = round_of(s, 0xF0 - 0x0F * i)
    return s


@njit(cache=True)
def word(data: Octets, at: U) -> U:
    """Return the little-endian word at `at`; the constant count lets LLVM compile it to one load."""
    value = U(0)
    for i in range(8):
        value |= U(data[at + U(i)]) << U(8 * i)
    return value


@njit(cache=True)
def put_word(data: Octets, at: U, value: U) -> None:
    """Write a word at `at`, little-endian."""
    for i in range(8):
        data[at + U(i)] = np.uint8((value >> U(8 * i)) & U(0xFF))


@njit(cache=True)
def part(data: Octets, at: U, count: U) -> U:
    """Return `count` bytes (at most 8) at `at` as a little-endian word."""
    value = U(0)
    for i in range(count):
        value |= U(data[at + i]) << (EIGHT * i)
    return value


@njit(cache=True)
def crossed_part(state: U, data: Octets, out: Octets, at: U, count: U, opening: bool) -> U:
    """Encrypt or decrypt `count` bytes (at most 8), little-endian; return the state word with the ciphertext."""
    given = part(data, at, count)
    mixed = state ^ given
    for i in range(count):
        out[at + i] = np.uint8((mixed >> (EIGHT * i)) & U(0xFF))
    if not opening:
        return mixed
    if count == EIGHT:
        return given
    return (state & ~((U(1) << (EIGHT * count)) - U(1))) | given


@njit(cache=True)
def crossed(state: U, data: Octets, out: Octets, at: U, opening: bool) -> U:
    """Encrypt or decrypt 8 bytes; see `crossed_part`."""
    given = word(data, at)
    mixed = state ^ given
    put_word(out, at, mixed)
    return given if opening else mixed


@njit(cache=True)
def swapped(x: U) -> U:
    """Return a word with its bytes reversed."""
    x = ((x >> U(8)) & U(0x00FF00FF00FF00FF)) | ((x & U(0x00FF00FF00FF00FF)) << U(8))
    x = ((x >> U(16)) & U(0x0000FFFF0000FFFF)) | ((x & U(0x0000FFFF0000FFFF)) << U(16))
    return (x >> U(32)) | (x << U(32))


@njit(cache=True)
def blocks_of_16(s: Words, data: Octets, out: Octets, opening: bool) -> Words:
    """Encrypt or decrypt all whole blocks of Ascon-AEAD128."""
    x0, x1, x2, x3, x4 = s
    for block in range(U(data.size) // SIXTEEN):
        at = block * SIXTEEN
        x0 = crossed(x0, data, out, at, opening)
        x1 = crossed(x1, data, out, at + EIGHT, opening)
        for i in range(4, 12):
            x0, x1, x2, x3, x4 = round_of((x0, x1, x2, x3, x4), 0xF0 - 0x0F * i)
    return x0, x1, x2, x3, x4


@njit(cache=True)
def blocks_of_8(s: Words, data: Octets, out: Octets, opening: bool) -> Words:
    """Encrypt or decrypt all whole blocks of Ascon-128."""
    x0, x1, x2, x3, x4 = s
    for block in range(U(data.size) // EIGHT):
        given = swapped(word(data, block * EIGHT))
        mixed = x0 ^ given
        put_word(out, block * EIGHT, swapped(mixed))
        x0 = given if opening else mixed
        for i in range(6, 12):
            x0, x1, x2, x3, x4 = round_of((x0, x1, x2, x3, x4), 0xF0 - 0x0F * i)
    return x0, x1, x2, x3, x4


@njit(SIGNATURE, cache=True)
def ascon_aead128(
    k0: U, k1: U, n0: U, n1: U, associated: Octets, data: Octets, out: Octets, tag: Octets, opening: bool
) -> None:
    """Encrypt or decrypt as in SP 800-232: little-endian words, blocks of 16 bytes, 8 rounds between them.

    Key and nonce are two words each. `data` is the plaintext, or the ciphertext if `opening`. The result is written
    to `out`, and its tag of 16 bytes to `tag`.
    """
    x0, x1, x2, x3, x4 = permuted((ASCON_AEAD128_IV, k0, k1, n0, n1), 12)
    x3, x4 = x3 ^ k0, x4 ^ k1

    if associated.size:
        at = U(0)
        size = U(associated.size)
        while size - at >= SIXTEEN:
            x0 ^= word(associated, at)
            x1 ^= word(associated, at + EIGHT)
            x0, x1, x2, x3, x4 = permuted((x0, x1, x2, x3, x4), 8)
            at += SIXTEEN
        left = size - at
        first = min(left, EIGHT)
        x0 ^= part(associated, at, first)
        x1 ^= part(associated, at + first, left - first)
        if left < EIGHT:
            x0 ^= LAST_BIT << (EIGHT * left)
        else:
            x1 ^= LAST_BIT << (EIGHT * (left - EIGHT))
        x0, x1, x2, x3, x4 = permuted((x0, x1, x2, x3, x4), 8)
    x4 ^= TOP_BIT

    x0, x1, x2, x3, x4 = blocks_of_16((x0, x1, x2, x3, x4), data, out, opening)
    left = U(data.size) % SIXTEEN
    at = U(data.size) - left
    first = min(left, EIGHT)
    x0 = crossed_part(x0, data, out, at, first, opening)
    x1 = crossed_part(x1, data, out, at + first, left - first, opening)
    if left < EIGHT:
        x0 ^= LAST_BIT << (EIGHT * left)
    else:
        x1 ^= LAST_BIT << (EIGHT * (left - EIGHT))

    x0, x1, x2, x3, x4 = permuted((x0, x1, x2 ^ k0, x3 ^ k1, x4), 12)
    put_word(tag, U(0), x3 ^ k0)
    put_word(tag, EIGHT, x4 ^ k1)


@njit(SIGNATURE, cache=True)
def ascon_128(
    k0: U, k1: U, n0: U, n1: U, associated: Octets, data: Octets, out: Octets, tag: Octets, opening: bool
) -> None:
    """Encrypt or decrypt as in Ascon v1.2: big-endian words, blocks of 8 bytes, 6 rounds; see `ascon_aead128`."""
    x0, x1, x2, x3, x4 = permuted((ASCON_128_IV, k0, k1, n0, n1), 12)
    x3, x4 = x3 ^ k0, x4 ^ k1

    if associated.size:
        at = U(0)
        size = U(associated.size)
        while size - at >= EIGHT:
            x0 ^= swapped(word(associated, at))
            x0, x1, x2, x3, x4 = permuted((x0, x1, x2, x3, x4), 6)
            at += EIGHT
        left = size - at
        x0 ^= swapped(part(associated, at, left)) ^ (TOP_BIT >> (EIGHT * left))
        x0, x1, x2, x3, x4 = permuted((x0, x1, x2, x3, x4), 6)
    x4 ^= LAST_BIT

    x0, x1, x2, x3, x4 = blocks_of_8((x0, x1, x2, x3, x4), data, out, opening)
    left = U(data.size) % EIGHT
    at = U(data.size) - left
    x0 = swapped(crossed_part(swapped(x0), data, out, at, left, opening)) ^ (TOP_BIT >> (EIGHT * left))

    x0, x1, x2, x3, x4 = permuted((x0, x1 ^ k0, x2 ^ k1, x3, x4), 12)
    put_word(tag, U(0), swapped(x3 ^ k0))
    put_word(tag, EIGHT, swapped(x4 ^ k1))
