"""Ascon in plain Python, written from the specifications and independently of cloven: a slow reference."""

from __future__ import annotations

MASK = 2**64 - 1
SBOX = bytes.fromhex("040b1f141a150902 1b050812 1d03061c 1e13070e 000d1118 100c0119 160a0f17".replace(" ", ""))
"""Table 6 of the v1.2 paper, Table 2 of SP 800-232: of the column (x0 x1 x2 x3 x4), x0 the highest bit."""


def substituted(a: int, b: int, c: int, d: int, e: int) -> tuple[int, int, int, int, int]:
    """Return the state after the substitution layer, by its algebraic normal form."""
    return (
        (e & b) ^ d ^ (c & b) ^ c ^ (b & a) ^ b ^ a,
        e ^ (d & c) ^ (d & b) ^ d ^ (c & b) ^ c ^ b ^ a,
        (e & d) ^ e ^ c ^ b ^ MASK,
        (e & a) ^ e ^ (d & a) ^ d ^ c ^ b ^ a,
        (e & b) ^ e ^ d ^ (b & a) ^ b,
    )


def permuted(x: list[int], rounds: int) -> list[int]:
    a, b, c, d, e = x
    for i in range(12 - rounds, 12):
        a, b, c, d, e = substituted(a, b, c ^ (0xF - i) << 4 ^ i, d, e)
        # Two copies of the word side by side: shifting them rotates the word.
        a, b, c, d, e = (w << 64 | w for w in (a, b, c, d, e))
        a = (a ^ a >> 19 ^ a >> 28) & MASK
        b = (b ^ b >> 61 ^ b >> 39) & MASK
        c = (c ^ c >> 1 ^ c >> 6) & MASK
        d = (d ^ d >> 10 ^ d >> 17) & MASK
        e = (e ^ e >> 7 ^ e >> 41) & MASK
    return [a, b, c, d, e]


def seal(name: str, key: bytes, nonce: bytes, associated: bytes, plaintext: bytes) -> bytes:
    """Return the ciphertext and tag of "ascon-128" or "ascon-aead128"."""
    old = name == "ascon-128"
    order, rate, rounds = ("big", 8, 6) if old else ("little", 16, 8)

    def words(data: bytes) -> list[int]:
        return [int.from_bytes(data[i : i + 8], order) for i in range(0, len(data), 8)]  # type: ignore[arg-type]

    def octets(x: list[int]) -> bytes:
        return b"".join(w.to_bytes(8, order) for w in x)  # type: ignore[arg-type]

    def blocks(data: bytes) -> list[list[int]]:
        data += b"\x80" if old else b"\x01"
        data += bytes(-len(data) % rate)
        return [words(data[i : i + rate]) for i in range(0, len(data), rate)]

    def met(x: list[int], block: list[int]) -> list[int]:
        return [a ^ b for a, b in zip(x, block, strict=False)] + x[len(block) :]

    k = words(key)
    x = permuted([0x80400C0600000000 if old else 0x00001000808C0001, *k, *words(nonce)], 12)
    x = x[:3] + met(x[3:], k)
    for block in blocks(associated) if associated else []:
        x = permuted(met(x, block), rounds)
    x[4] ^= 1 if old else 1 << 63
    out = []
    *whole, last = blocks(plaintext)
    for block in whole:
        x = met(x, block)
        out.append(octets(x[: rate // 8]))
        x = permuted(x, rounds)
    x = met(x, last)
    out.append(octets(x[: rate // 8])[: len(plaintext) % rate])
    x = permuted(x[: rate // 8] + met(x[rate // 8 :], k), 12)
    return b"".join(out) + octets(met(x[3:], k))
