"""Test vectors of Wycheproof for authenticated encryption; `wycheproof/README.md` names the source."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloven.runtime.link.ciphers import CIPHERS, Cipher
from cloven.runtime.link.errors import LinkError, WrongTag

FOLDER = Path(__file__).parent / "wycheproof"
NAMES = {
    ("ASCON128", 128): "ascon-128",
    ("ASCON-AEAD128", 128): "ascon-aead128",
    ("AES-GCM", 128): "aes-128-gcm",
    ("AES-GCM", 256): "aes-256-gcm",
    ("CHACHA20-POLY1305", 256): "chacha20-poly1305",
}
"""Cloven's cipher for Wycheproof's name of an algorithm and its bits of key."""


@dataclass(frozen=True)
class Vector:
    """One test vector of a file."""

    number: int
    cipher: Cipher | None
    """None: cloven has no cipher with this size of key."""
    key: bytes
    nonce: bytes
    associated: bytes
    plaintext: bytes
    sealed: bytes
    result: str


def vectors(path: Path) -> Iterator[Vector]:
    """Return the test vectors of a file in `aead_test_schema`, of any version, plain or compressed."""
    text = path.read_bytes()
    document = json.loads(gzip.decompress(text) if path.suffix == ".gz" else text)
    assert document["schema"].startswith("aead_test_schema")
    count = 0
    for group in document["testGroups"]:
        name = NAMES.get((document["algorithm"], group["keySize"]))
        for test in group["tests"]:
            count += 1
            key, nonce, associated, plaintext, sealed, tag = (
                bytes.fromhex(test[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            assert 8 * len(key) == group["keySize"]
            cipher = CIPHERS[name] if name is not None and group["tagSize"] == 128 else None
            yield Vector(test["tcId"], cipher, key, nonce, associated, plaintext, sealed + tag, test["result"])
    assert count == document["numberOfTests"]


def outcome(vector: Vector) -> str:
    """Return the outcome of a vector: "sealed and opened", "not opened", or "refused" for its key or nonce size."""
    cipher = vector.cipher
    if cipher is None:
        return "refused"
    try:
        opened = cipher.open(vector.key, vector.nonce, vector.associated, vector.sealed)
    except WrongTag:
        return "not opened"
    except LinkError:
        assert len(vector.nonce) != cipher.nonce_bytes
        return "refused"
    assert opened == vector.plaintext
    assert cipher.seal(vector.key, vector.nonce, vector.associated, vector.plaintext) == vector.sealed
    return "sealed and opened"


ALLOWED = {
    "valid": {"sealed and opened", "refused"},
    "invalid": {"not opened", "refused"},
    "acceptable": {"sealed and opened", "not opened", "refused"},
}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("ascon128_test.json.gz", {("valid", "sealed and opened"): 84, ("invalid", "not opened"): 108}),
        (
            "ascon_sp800_232_aead128_test.json.gz",
            {("valid", "sealed and opened"): 128, ("invalid", "not opened"): 124},
        ),
        (
            "aes_gcm_test.json",
            {
                ("valid", "sealed and opened"): 3,
                ("valid", "refused"): 1,
                ("invalid", "not opened"): 1,
                ("invalid", "refused"): 1,
            },
        ),
        (
            "chacha20_poly1305_test.json",
            {
                ("valid", "sealed and opened"): 1,
                ("invalid", "not opened"): 1,
                ("acceptable", "sealed and opened"): 1,
            },
        ),
    ],
)
def test_every_vector_has_the_outcome_that_its_file_demands(
    file: str, expected: dict[tuple[str, str], int]
) -> None:
    found = {vector.number: (vector.result, outcome(vector)) for vector in vectors(FOLDER / file)}

    assert {number: pair for number, pair in found.items() if pair[1] not in ALLOWED[pair[0]]} == {}
    assert Counter(found.values()) == expected


def test_a_vector_of_the_other_ascon_does_not_open() -> None:
    """The two versions differ, so that exchanging the two files would be noticed."""
    found = [v for v in vectors(FOLDER / "ascon128_test.json.gz") if v.result == "valid"]

    assert {outcome(replace(v, cipher=CIPHERS["ascon-aead128"])) for v in found} == {"not opened"}
