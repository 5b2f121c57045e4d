"""Ascon compared with its designers' test vectors and with a slow reference."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import get_args
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cloven.runtime.link
from cloven.errors import ClovenError
from cloven.runtime.link import ascon
from cloven.runtime.link.ascon import Variant
from cloven.runtime.link.errors import LinkError, WrongTag
from tests.runtime.link import reference

VARIANTS: tuple[Variant, ...] = get_args(Variant)
KEY = bytes(range(16))
FILES = {"ascon-128": "ascon128_v12.txt", "ascon-aead128": "ascon_aead128_sp800-232.txt"}
# The first bytes of nonce, plaintext and associated data in the designers' files. Both lengths go from 0 to 32,
# that of the associated data in the inner loop.
STARTS = {"ascon-128": (0x00, 0x00, 0x00), "ascon-aead128": (0x10, 0x20, 0x30)}
# SHA-256 over the ciphertexts of all 1089 vectors in order, computed from the designers' files themselves.
DIGESTS = {
    "ascon-128": "43f24e0bd286de28c62179c9264e9b3f117a5eb4a22ee3e2e5bbce67ec05bf1f",
    "ascon-aead128": "a2584d735d8806ecf99d93da734fb6144318c244bb9991def56667e1df0aa35e",
}
# (bytes of plaintext, of associated data): ciphertext and tag, as the files print them.
FULL = {
    ("ascon-128", 0, 0): "E355159F292911F794CB1432A0103A8A",
    ("ascon-128", 0, 1): "944DF887CD4901614C5DEDBC42FC0DA0",
    ("ascon-128", 1, 0): "BC18C3F4E39ECA7222490D967C79BFFC92",
    ("ascon-128", 32, 32): "B96C78651B6246B0C3B1A5D373B0D5168DCA4A96734CF0DDF5F92F8D15E30270"
    "279BF6A6CC3F2FC9350B915C292BDB8D",
    ("ascon-aead128", 0, 0): "4F9C278211BEC9316BF68F46EE8B2EC6",
    ("ascon-aead128", 0, 1): "CCCB674FE18A09A285D6AB11B35675C0",
    ("ascon-aead128", 5, 0): "E8C3DEEE2421812A398A8FF074C8B7DA46C82A94A7",
    ("ascon-aead128", 32, 32): "CB34D04660A66DBFBE9C856601F5B8AA51A499B55AC8F7FBEFBC331A613EE9CD"
    "FD191750A47F211C0A15ED28173D7CAA",
}


def counted(start: int, size: int) -> bytes:
    return bytes(range(start, start + size))


def inputs(variant: Variant, plain: int, associated: int) -> tuple[bytes, bytes, bytes]:
    """Return nonce, plaintext and associated data of one of the designers' vectors."""
    nonce, first, other = STARTS[variant]
    return counted(nonce, 16), counted(first, plain), counted(other, associated)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_vectors_of_the_designers(variant: Variant) -> None:
    digest = hashlib.sha256()
    for plain, associated in product(range(33), range(33)):
        nonce, text, ad = inputs(variant, plain, associated)
        sealed = ascon.seal(KEY, nonce, ad, text, variant=variant)
        assert ascon.open(KEY, nonce, ad, sealed, variant=variant) == text
        digest.update(sealed)

    assert digest.hexdigest() == DIGESTS[variant]


@pytest.mark.parametrize(("variant", "plain", "associated"), FULL)
def test_vectors_in_full(variant: Variant, plain: int, associated: int) -> None:
    nonce, text, ad = inputs(variant, plain, associated)

    assert ascon.seal(KEY, nonce, ad, text, variant=variant).hex().upper() == FULL[variant, plain, associated]


def vectors(path: Path) -> Iterator[dict[str, bytes]]:
    for block in path.read_text("ascii").strip().split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines() if not line.startswith("Count"))
        yield {name.strip(): bytes.fromhex(value) for name, _, value in pairs}


@pytest.mark.slow
@pytest.mark.skipif("CLOVEN_DATA" not in os.environ, reason="CLOVEN_DATA is not set")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_designers_files(variant: Variant) -> None:
    digest = hashlib.sha256()
    for v in vectors(Path(os.environ["CLOVEN_DATA"]) / "ascon-kat" / FILES[variant]):
        assert (v["Nonce"], v["PT"], v["AD"]) == inputs(variant, len(v["PT"]), len(v["AD"]))
        assert ascon.seal(v["Key"], v["Nonce"], v["AD"], v["PT"], variant=variant) == v["CT"]
        assert ascon.open(v["Key"], v["Nonce"], v["AD"], v["CT"], variant=variant) == v["PT"]
        digest.update(v["CT"])

    assert digest.hexdigest() == DIGESTS[variant]


def test_the_references_substitution_is_the_table_of_the_specification() -> None:
    for column in range(32):
        a, b, c, d, e = (column >> place & 1 for place in (4, 3, 2, 1, 0))
        bits = reference.substituted(a, b, c, d, e)
        assert int("".join(str(bit & 1) for bit in bits), 2) == reference.SBOX[column]


LENGTHS = (1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 255, 1000, 4097, 65_537, 300_007)


@pytest.mark.parametrize("variant", VARIANTS)
def test_long_messages_against_a_slow_reference(variant: Variant) -> None:
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        key, nonce, ad, text = (rng.bytes(n) for n in (16, 16, length % 41, length))
        sealed = ascon.seal(key, nonce, ad, text, variant=variant)
        assert sealed == reference.seal(variant, key, nonce, ad, text), length
        assert ascon.open(key, nonce, ad, sealed, variant=variant) == text


@pytest.mark.parametrize("variant", VARIANTS)
@given(key=st.binary(min_size=16, max_size=16), ad=st.binary(max_size=70), text=st.binary(max_size=70))
def test_any_lengths_against_a_slow_reference(variant: Variant, key: bytes, ad: bytes, text: bytes) -> None:
    assert ascon.seal(key, key, ad, text, variant=variant) == reference.seal(variant, key, key, ad, text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_buffer_is_read_as_its_bytes(variant: Variant) -> None:
    array = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
    raw = array.tobytes()
    expected = ascon.seal(KEY, KEY, b"", raw, variant=variant)

    odd = memoryview(b"." + raw)[1:]
    for buffer in (array, bytearray(raw), memoryview(raw), odd, array.astype(">f4").byteswap().view("f4")):
        assert ascon.seal(np.frombuffer(KEY, np.uint8), bytearray(KEY), b"", buffer, variant=variant) == expected
    assert ascon.seal(KEY, KEY, np.empty((0, 4)), np.empty((3, 0)), variant=variant) == ascon.seal(
        KEY, KEY, b"", b"", variant=variant
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_changed_bit_is_refused_and_nothing_is_left_in_the_buffer(variant: Variant) -> None:
    text, ad = counted(1, 21), counted(50, 9)
    sealed = ascon.seal(KEY, KEY, ad, text, variant=variant)
    for name, original in (("sealed", sealed), ("ad", ad), ("key", KEY), ("nonce", KEY)):
        for bit in range(8 * len(original)):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            given = {"sealed": sealed, "ad": ad, "key": KEY, "nonce": KEY, name: bytes(changed)}
            out = bytearray(b"!" * len(text))
            with pytest.raises(WrongTag):
                ascon.open_into(given["key"], given["nonce"], given["ad"], given["sealed"], out, variant=variant)
            assert out == bytes(len(text))


@pytest.mark.parametrize("variant", VARIANTS)
def test_truncated_and_lengthened_messages_are_refused(variant: Variant) -> None:
    sealed = ascon.seal(KEY, KEY, b"", counted(0, 33), variant=variant)
    for wrong in [sealed[:n] for n in range(len(sealed))] + [sealed + b"\0", b"\0" + sealed]:
        with pytest.raises(WrongTag):
            ascon.open(KEY, KEY, b"", wrong, variant=variant)


def test_the_variants_do_not_open_each_other() -> None:
    with pytest.raises(WrongTag, match="ascon-aead128: wrong tag"):
        ascon.open(KEY, KEY, b"", ascon.seal(KEY, KEY, b"", b"text", variant="ascon-128"))


def test_wrong_sizes_and_buffers_are_named() -> None:
    with pytest.raises(LinkError, match="ascon-aead128: got 15 bytes of key and 12 of nonce; expected 16 and 16"):
        ascon.seal(KEY[1:], KEY[:12], b"", b"")
    with pytest.raises(LinkError, match=r"shape \(5,\) is not contiguous; copy it first"):
        ascon.seal(KEY, KEY, b"", np.zeros(10, np.uint8)[::2])
    with pytest.raises(LinkError, match="got a writable buffer of 18 bytes; expected a writable one of 19"):
        ascon.seal_into(KEY, KEY, b"", b"abc", bytearray(18))
    with pytest.raises(LinkError, match="got a read-only buffer of 19 bytes; expected a writable one of 19"):
        ascon.seal_into(KEY, KEY, b"", b"abc", bytes(19))


@pytest.fixture
def _not_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ascon.kernels.cache_clear()
    monkeypatch.delitem(sys.modules, "cloven.runtime.link.ascon_kernel", raising=False)
    monkeypatch.delattr(cloven.runtime.link, "ascon_kernel", raising=False)
    yield
    ascon.kernels.cache_clear()


@pytest.mark.usefixtures("_not_loaded")
def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)

    with pytest.raises(ClovenError, match=r"pip install 'cloven\[ascon\]'"):
        ascon.seal(KEY, KEY, b"", b"")


@pytest.mark.usefixtures("_not_loaded")
def test_without_a_folder_for_compiled_code_it_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = ModuleType("numba")
    numba.__dict__.update(types=MagicMock(), njit=MagicMock(side_effect=RuntimeError("no locator available")))
    monkeypatch.setitem(sys.modules, "numba", numba)

    with pytest.raises(ClovenError, match=r"no locator available.*set NUMBA_CACHE_DIR"):
        ascon.seal(KEY, KEY, b"", b"")
