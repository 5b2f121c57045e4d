"""A quote: what an enclave says of itself, bound to its fresh public key and to the nonce of who asks.

With ``gramine-sgx`` the processor says it: the evidence is an SGX ECDSA quote (version 3), whose report data begins
with the binding. Elsewhere the enclave measures itself, and `Quote.words` says what that is worth: an owner who
gives a verifier of hardware quotes accepts no other. Sources: Intel SGX ECDSA Quote Library Reference (DCAP), A.4;
Intel SDM volume 3D, REPORT.

Messages are JSON objects of strings, at most 64 KiB.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cloven.errors import ClovenError

SIMULATED, DIRECT, SGX = "simulated", "gramine-direct", "gramine-sgx"
BACKENDS = SIMULATED, DIRECT, SGX
WORDS = {
    SIMULATED: "the measurement is what the process says of itself; nothing protects it",
    DIRECT: "the measurement is what the process says of itself; no hardware protects it from its host",
    SGX: "the processor measured the enclave, and says so in a hardware quote; whether its microcode is up to date "
    "was not looked at",
}
NONCE_BYTES = 32
MESSAGE_BYTES = 2**16
"""The most that a message may have."""
DIGITS = re.compile(r"[0-9a-f]{64}")
FIELDS = {
    "backend": re.compile("|".join(map(re.escape, BACKENDS))),
    "measurement": DIGITS,
    "folder_id": re.compile(r"[!-~]{1,200}"),
    "public_key": DIGITS,
    "report_data": DIGITS,
    "evidence": re.compile(r"[A-Za-z0-9+/]*={0,2}"),
}
HEADER_BYTES, BODY_BYTES = 48, 384
SIGNED_BYTES = HEADER_BYTES + BODY_BYTES
"""A hardware quote's header and report body, which its signature is of."""
ATTRIBUTES, MRENCLAVE, REPORT_DATA = slice(48, 56), slice(64, 96), slice(320, 384)
"""Places in the report body."""
DEBUG = 0x2
QUOTE_VERSION, ECDSA_P256 = 3, 2

Chain: TypeAlias = Callable[[bytes], list[str]]
"""What checks the signature of a hardware quote up to Intel's root, and whether it was revoked: its problems."""


@dataclass(frozen=True)
class Quote:
    """What an enclave says of itself.

    Attributes:
        backend: one of `BACKENDS`.
        measurement: of program, plan and settings, 64 hexadecimal digits.
        folder_id: number of the sealed folder that it would open.
        public_key: X25519, 32 bytes, fresh with each start.
        report_data: 32 bytes that bind key, nonce and folder, see `binding`.
        evidence: the hardware's own quote; empty where there is none.
    """

    backend: str
    measurement: str
    folder_id: str
    public_key: bytes
    report_data: bytes
    evidence: bytes = field(default=b"", repr=False)

    @property
    def words(self) -> str:
        """What the measurement is worth."""
        return f"{self.backend}: {WORDS[self.backend]}"

    @property
    def run(self) -> str:
        """The run that a release for this quote begins: of one owner's nonce and one start of the enclave."""
        return self.report_data.hex()

    def message(self) -> bytes:
        """As it is sent."""
        return message(
            backend=self.backend,
            measurement=self.measurement,
            folder_id=self.folder_id,
            public_key=self.public_key.hex(),
            report_data=self.report_data.hex(),
            evidence=base64.b64encode(self.evidence).decode(),
        )


def read_quote(text: bytes) -> Quote:
    """A quote as it was sent.

    Raises:
        ClovenError: with every field that is missing, unknown, or not what it should be.
    """
    found = strings(parsed(text, "a quote"), "a quote", FIELDS)
    try:
        evidence = base64.b64decode(found["evidence"], validate=True)
    except ValueError:
        raise ClovenError("a quote's evidence is no base64; ask the enclave for another quote") from None
    return Quote(
        backend=found["backend"],
        measurement=found["measurement"],
        folder_id=found["folder_id"],
        public_key=bytes.fromhex(found["public_key"]),
        report_data=bytes.fromhex(found["report_data"]),
        evidence=evidence,
    )


def binding(public_key: bytes, nonce: bytes, folder_id: str) -> bytes:
    """The 32 bytes that bind a public key to who asked, and to the folder."""
    return hashlib.sha256(b"cloven quote" + public_key + nonce + folder_id.encode()).digest()


def verify(quote: Quote, nonce: bytes, *, expect: str, folder_id: str, chain: Chain | None = None) -> None:
    """Accept a quote or tell all that is wrong; arguments as `problems`.

    Raises:
        ClovenError: with every problem.
    """
    if found := problems(quote, nonce, expect, folder_id, chain):
        raise ClovenError(found)


def problems(quote: Quote, nonce: bytes, expect: str, folder_id: str, chain: Chain | None = None) -> list[str]:
    """Why an owner should not release a key for this quote; empty where nothing is wrong.

    Args:
        quote: the enclave's answer.
        nonce: the 32 random bytes that it answers.
        expect: the measurement that it must have, 64 hexadecimal digits.
        folder_id: the sealed folder that it must be for.
        chain: checks the signature of a hardware quote. With it only hardware quotes are accepted, without it none.
    """
    found = []
    if not DIGITS.fullmatch(expect):
        found.append(f"the expected measurement is {expect!r}; expected 64 hexadecimal digits in small letters")
    elif quote.measurement != expect:
        found.append(
            f"the enclave's measurement is {quote.measurement}, expected {expect}: it runs another program, plan "
            "or setting; if that is meant, expect its measurement"
        )
    if quote.folder_id != folder_id:
        found.append(f"the quote is for the sealed folder {quote.folder_id}, expected {folder_id}")
    if quote.report_data != binding(quote.public_key, nonce, quote.folder_id):
        found.append(
            "the quote does not answer this request: its report data does not bind its public key to the nonce "
            "that was sent; it is a replayed quote, or was changed on the way: mistrust what forwards the messages"
        )
    return found + evidence_problems(quote, chain)


def evidence_problems(quote: Quote, chain: Chain | None) -> list[str]:
    """What is wrong with a quote's evidence."""
    if quote.backend != SGX:
        return bare_problems(quote, chain)
    size = len(quote.evidence)
    if size < SIGNED_BYTES:
        return [
            f"the evidence is no SGX quote: it has {size} bytes, expected {SIGNED_BYTES} and a signature behind "
            "them"
        ]
    version, kind = (int.from_bytes(quote.evidence[place : place + 2], "little") for place in (0, 2))
    if (version, kind) != (QUOTE_VERSION, ECDSA_P256):
        return [
            f"the evidence is an SGX quote of version {version} and key type {kind}; expected version "
            f"{QUOTE_VERSION} and key type {ECDSA_P256} (ECDSA P-256)"
        ]
    return report_problems(quote, quote.evidence[HEADER_BYTES:SIGNED_BYTES]) + signature_problems(
        quote.evidence, chain
    )


def bare_problems(quote: Quote, chain: Chain | None) -> list[str]:
    """What is wrong with a quote that no hardware backs."""
    found = []
    if chain is not None:
        # Else whoever runs the enclave could claim any measurement by naming another backend.
        found.append(f"a hardware quote is asked for, and this one is {quote.words}")
    if quote.evidence:
        found.append(f"a {quote.backend} quote has no evidence, and this one has {len(quote.evidence)} bytes")
    return found


def report_problems(quote: Quote, body: bytes) -> list[str]:
    """Where the hardware's report says other things than the quote around it, or that it protects nothing."""
    found = []
    if (measured := body[MRENCLAVE].hex()) != quote.measurement:
        found.append(f"the processor measured {measured}, and the quote around it says {quote.measurement}")
    if not body[REPORT_DATA].startswith(quote.report_data):
        found.append(
            "the processor's report does not hold the quote's report data: it was made for another request"
        )
    if int.from_bytes(body[ATTRIBUTES], "little") & DEBUG:
        found.append(
            "it is a debug enclave, whose memory its host can read; build it with sgx.debug = false, and start it"
        )
    return found


def signature_problems(evidence: bytes, chain: Chain | None) -> list[str]:
    """What the verifier says of the signature; nobody's word is not enough."""
    if chain is None:
        return [
            "nothing here verifies the signature of this hardware quote, and an unverified one is never accepted: "
            "give Intel's lists of revoked certificates, with which it is verified (--crl)"
        ]
    return chain(evidence)


def message(**values: str | bool) -> bytes:
    """A message as it is sent."""
    return json.dumps(values).encode()


def parsed(text: bytes, what: str) -> dict[str, Any]:
    """The object of a message that messages of ours call `what`.

    Raises:
        ClovenError: where it is too long, or no JSON object, or has a name twice.
    """
    if len(text) > MESSAGE_BYTES:
        raise ClovenError(f"{what} has {len(text)} bytes; expected at most {MESSAGE_BYTES}")
    try:
        found = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise ClovenError(
            f"{what} of {len(text)} bytes is no JSON object with each name once; send it again"
        ) from None
    if not isinstance(found, dict):
        raise ClovenError(f"{what} is a JSON {type(found).__name__}; expected an object")
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different; which of two would count is not the sender's to play with."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def strings(found: Mapping[str, Any], what: str, fields: Mapping[str, re.Pattern[str]]) -> dict[str, str]:
    """The fields of a message: just these, each a string that its pattern matches.

    Raises:
        ClovenError: with every field that is not; values are not shown.
    """
    wrong = [f"{what} lacks the field {name}" for name in fields if name not in found]
    if strange := len(found.keys() - fields.keys()):
        wrong.append(f"{what} has {strange} unknown fields; expected {', '.join(fields)}")
    for name, pattern in fields.items():
        value = found.get(name, "")
        if name in found and not (isinstance(value, str) and pattern.fullmatch(value)):
            wrong.append(f"{what} has a malformed {name}; expected a string that matches {pattern.pattern}")
    if wrong:
        raise ClovenError(wrong)
    return {name: found[name] for name in fields}
