"""The quote of an enclave: its measurement and fresh public key, bound to the nonce of the owner who asked.

Under Gramine with SGX the processor measures: the evidence is a hardware quote, whose 64 bytes of report data are
the binding. A simulated enclave, and Gramine without SGX, measure themselves: anybody can claim such a measurement.
Therefore a measurement names its kind, ``sgx:...`` or ``simulated:...``, and an owner who expects hardware accepts
nothing else.

Messages are JSON objects of strings, at most 64 KiB.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, Field

from cloven.documents import Document, parse_document
from cloven.errors import ClovenError

SIMULATED, DIRECT, SGX, TDX = "simulated", "gramine-direct", "sgx", "tdx"
WORDS = {
    SIMULATED: "the measurement is what the process says of itself; nothing protects it",
    DIRECT: "the measurement is what the process says of itself; no hardware protects it from its host",
    SGX: "the processor measured the enclave, and its quote was verified up to Intel's root",
    TDX: "the processor measured the trust domain, and its quote was verified up to Intel's root",
}
HARDWARE = SGX, TDX
"""The kinds of measurement that a hardware quote proves."""
NONCE_BYTES = 32
MESSAGE_BYTES = 2**16
"""The largest message."""
MEASUREMENT = re.compile(rf"({'|'.join(map(re.escape, WORDS))}):([0-9a-f]{{64}})")
FOLDER_ID = re.compile(r"[!-~]{1,200}")

Digits = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""32 bytes in hexadecimal digits."""
Kind = TypeVar("Kind", bound=BaseModel)


class QuoteMessage(Document):
    """A quote as it is sent: bytes in hexadecimal digits, the evidence in base64."""

    measurement: Annotated[str, Field(pattern=f"^{MEASUREMENT.pattern}$")]
    folder_id: Annotated[str, Field(pattern=f"^{FOLDER_ID.pattern}$")]
    public_key: Digits
    report_data: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]
    evidence: Annotated[str, Field(pattern="^[A-Za-z0-9+/]*={0,2}$")]


def encoded(message: Document) -> bytes:
    """Return a message as it is sent."""
    return message.model_dump_json().encode()


def parse_message(kind: type[Kind], text: bytes, name: str) -> Kind:
    """Return a message, which error messages call `name`; values are not shown in them.

    Raises:
        ClovenError: if it is too long, or as `parse_document`.
    """
    return parse_document(kind, message_text(text, name), name)


def message_text(text: bytes, name: str) -> str:
    """Return the text of a message.

    Raises:
        ClovenError: if it is too long, or not UTF-8.
    """
    if len(text) > MESSAGE_BYTES:
        raise ClovenError(f"{name} has {len(text)} bytes; expected at most {MESSAGE_BYTES}")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ClovenError(f"{name} of {len(text)} bytes is not UTF-8 text; send it again") from None


@dataclass(frozen=True)
class Measurement:
    """A measurement of an enclave, written ``KIND:DIGITS``.

    Attributes:
        kind: who measured: one of `WORDS`.
        digits: 64 hexadecimal digits. MRENCLAVE for ``sgx``, a hash of the registers for ``tdx`` (see
            `cloven.enclave.dcap.measurement`), and for the others a hash of the program and the sealed folder's
            number.
    """

    kind: str
    digits: str

    def __post_init__(self) -> None:
        if not MEASUREMENT.fullmatch(str(self)):
            raise ClovenError(
                f"the measurement is {str(self)!r}; expected one of {', '.join(WORDS)}, a colon and 64 hexadecimal "
                "digits in lower case, such as sgx:0123...cdef"
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.digits}"

    @staticmethod
    def parse(text: str) -> Measurement:
        """Return the measurement of its written form; raise `ClovenError` for any other text."""
        kind, _, digits = text.rpartition(":")
        return Measurement(kind, digits)


@dataclass(frozen=True)
class Attested:
    """The content of a verified hardware quote about the enclave or the trust domain.

    Attributes:
        measurement: of it.
        report_data: the 64 bytes that it gave to be signed.
    """

    measurement: Measurement
    report_data: bytes


Verifier: TypeAlias = Callable[[bytes], Attested]
"""Verifies a hardware quote, or raises `ClovenError` with all that is wrong with it; see `cloven.enclave.dcap`."""


@dataclass(frozen=True)
class Expected:
    """The owner's requirements for an enclave before a key is released.

    Attributes:
        measurement: that it must have. If its kind is a hardware kind, only a hardware quote is accepted.
        verifier: of hardware quotes; needed exactly for those.
        accept: the kind of the measurement, if that is not a hardware kind: the owner says explicitly that a
            measurement is enough which the host can claim.

    Raises:
        ClovenError: if these contradict each other, or a quote could be accepted that proves nothing.
    """

    measurement: Measurement
    verifier: Verifier | None = field(default=None, repr=False)
    accept: str | None = None

    def __post_init__(self) -> None:
        kind = self.measurement.kind
        if self.accept is not None and (self.accept != kind or kind in HARDWARE):
            raise ClovenError(
                f"{self.accept} is to be accepted, and the expected measurement is of the kind {kind}; "
                + ("leave --accept out" if kind in HARDWARE else f"only --accept {kind} goes with it")
            )
        if kind in HARDWARE and self.verifier is None:
            raise ClovenError(
                f"the expected measurement is of the kind {kind}, and an unverified hardware quote is never "
                "accepted; give Intel's collateral (--collateral FILE), or fetch it (--fetch-collateral URL)"
            )
        if kind not in HARDWARE and self.accept is None:
            raise ClovenError(
                f"the expected measurement is of the kind {kind}, which proves nothing: {WORDS[kind]}; expect that "
                f"of a hardware quote (sgx:... or tdx:...), or accept this explicitly: --accept {kind}"
            )
        if kind not in HARDWARE and self.verifier is not None:
            raise ClovenError(
                "collateral is given, with which hardware quotes are verified, and the expected measurement is of "
                f"the kind {kind}; expect sgx:... or tdx:..., or give no collateral"
            )


@dataclass(frozen=True)
class Quote:
    """The claims of an enclave about itself.

    Attributes:
        measurement: of program, plan and settings.
        folder_id: number of the sealed folder that it would open.
        public_key: X25519, 32 bytes, fresh with each start.
        report_data: 64 bytes that bind key, nonce and folder, see `binding`.
        evidence: the hardware's own quote; empty where there is none.
    """

    measurement: Measurement
    folder_id: str
    public_key: bytes
    report_data: bytes
    evidence: bytes = field(default=b"", repr=False)

    @property
    def words(self) -> str:
        """Return how far the measurement can be trusted, once the quote was accepted."""
        return f"{self.measurement.kind}: {WORDS[self.measurement.kind]}"

    @property
    def run(self) -> str:
        """Return the run that a release for this quote begins: of one nonce and one start of the enclave."""
        return self.report_data[:32].hex()

    def message(self) -> bytes:
        """Return the quote as it is sent."""
        return encoded(
            QuoteMessage(
                measurement=str(self.measurement),
                folder_id=self.folder_id,
                public_key=self.public_key.hex(),
                report_data=self.report_data.hex(),
                evidence=base64.b64encode(self.evidence).decode(),
            )
        )


def read_quote(text: bytes) -> Quote:
    """Return a quote from its message.

    Raises:
        ClovenError: with every field that is missing, unknown, or malformed.
    """
    found = parse_message(QuoteMessage, text, "a quote")
    try:
        evidence = base64.b64decode(found.evidence, validate=True)
    except ValueError:
        raise ClovenError("a quote's evidence is not base64; ask the enclave for another quote") from None
    return Quote(
        measurement=Measurement.parse(found.measurement),
        folder_id=found.folder_id,
        public_key=bytes.fromhex(found.public_key),
        report_data=bytes.fromhex(found.report_data),
        evidence=evidence,
    )


def binding(public_key: bytes, nonce: bytes, folder_id: str) -> bytes:
    """Return the report data, 64 bytes, that bind a public key to the owner's nonce and to the folder."""
    return hashlib.sha512(b"cloven quote" + public_key + nonce + folder_id.encode()).digest()


def verify(quote: Quote, nonce: bytes, *, expect: Expected, folder_id: str) -> None:
    """Accept a quote, or raise `ClovenError` with every problem; arguments as `problems`."""
    if found := problems(quote, nonce, expect, folder_id):
        raise ClovenError(found)


def problems(quote: Quote, nonce: bytes, expect: Expected, folder_id: str) -> list[str]:
    """Return why an owner should not release a key for this quote; empty if nothing is wrong.

    Args:
        quote: the enclave's answer.
        nonce: the 32 random bytes that it answers.
        expect: what the owner demands.
        folder_id: the sealed folder that it must be for.
    """
    found = []
    if quote.measurement.kind != expect.measurement.kind:
        found.append(
            f"the enclave's measurement is of the kind {quote.measurement.kind}, expected "
            f"{expect.measurement.kind}: another kind of enclave answers than the one that you expect"
        )
    elif quote.measurement != expect.measurement:
        found.append(
            f"the enclave's measurement is {quote.measurement}, expected {expect.measurement}: it runs another "
            "program, plan or setting; if that is intended, expect its measurement"
        )
    if quote.folder_id != folder_id:
        found.append(f"the quote is for the sealed folder {quote.folder_id}, expected {folder_id}")
    bound = binding(quote.public_key, nonce, quote.folder_id)
    if quote.report_data != bound:
        found.append(
            "the quote does not answer this request: its report data does not bind its public key to the nonce "
            "that was sent; it is a replayed quote, or was changed on the way: the relay may be compromised"
        )
    return found + evidence_problems(quote.evidence, expect, bound)


def evidence_problems(evidence: bytes, expect: Expected, bound: bytes) -> list[str]:
    """Return what is wrong with a quote's evidence, by what the owner expects and not by what the enclave says."""
    if expect.verifier is None:
        if not evidence:
            return []
        return [f"a {expect.measurement.kind} quote has no evidence, this one has {len(evidence)} bytes"]
    if not evidence:
        return [f"the enclave sent no hardware quote; expected one of the kind {expect.measurement.kind}"]
    try:
        attested = expect.verifier(evidence)
    except ClovenError as error:
        return list(error.problems)
    found = []
    if attested.measurement != expect.measurement:
        found.append(f"the processor measured {attested.measurement}, expected {expect.measurement}")
    if attested.report_data != bound:
        found.append(
            "the hardware quote was made for another request: its report data is not the 64 bytes that bind the "
            "public key to the nonce that was sent"
        )
    return found
