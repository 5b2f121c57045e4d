"""The quote of an enclave: its measurement and a fresh public key, bound to the owner's nonce.

Under Gramine with SGX, the processor measures: the evidence is a hardware quote, whose 64 bytes of report data are
the binding. A simulated enclave, and Gramine without SGX, measure themselves: anyone can claim such a measurement.
Therefore a measurement names its kind, ``sgx:...`` or ``simulated:...``, and an owner who expects hardware accepts
no other kind.

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
    SIMULATED: "the process claims this measurement itself; nothing protects it",
    DIRECT: "the process claims this measurement itself; no hardware protects it from its host",
    SGX: "the processor measured the enclave, and its quote was verified up to Intel's root",
    TDX: "the processor measured the trust domain, and its quote was verified up to Intel's root",
}
HARDWARE = SGX, TDX
"""The kinds of measurement that a hardware quote proves."""
NONCE_BYTES = 32
MESSAGE_BYTES = 2**16
"""The size of the largest message."""
MEASUREMENT = re.compile(rf"({'|'.join(map(re.escape, WORDS))}):([0-9a-f]{{64}})")
FOLDER_ID = re.compile(r"[!-~]{1,200}")

Digits = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""32 bytes in hexadecimal digits."""
Kind = TypeVar("Kind", bound=BaseModel)


class QuoteMessage(Document):
    """The message form of a quote: bytes as hexadecimal digits, the evidence in base64."""

    measurement: Annotated[str, Field(pattern=f"^{MEASUREMENT.pattern}$")]
    folder_id: Annotated[str, Field(pattern=f"^{FOLDER_ID.pattern}$")]
    public_key: Digits
    report_data: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]
    evidence: Annotated[str, Field(pattern="^[A-Za-z0-9+/]*={0,2}$")]


def encoded(message: Document) -> bytes:
    """Return the bytes of a message."""
    return message.model_dump_json().encode()


def parse_message(kind: type[Kind], text: bytes, name: str) -> Kind:
    """Parse a message; error messages call it `name` and do not show values.

    Raises:
        ClovenError: if it is too long, or as in `parse_document`.
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
        raise ClovenError(f"{name} ({len(text)} bytes) is not UTF-8 text; send it again") from None


@dataclass(frozen=True)
class Measurement:
    """A measurement of an enclave, written ``KIND:DIGITS``.

    Attributes:
        kind: the kind of measurement: one of `WORDS`.
        digits: 64 hexadecimal digits. MRENCLAVE for ``sgx``, a hash of the registers for ``tdx`` (see
            `cloven.enclave.dcap.measurement`), and for the others a hash of the program and the sealed folder's id.
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
        """Parse a measurement; raise `ClovenError` if it is malformed."""
        kind, _, digits = text.rpartition(":")
        return Measurement(kind, digits)


@dataclass(frozen=True)
class Attested:
    """The content of a verified hardware quote about the enclave or the trust domain.

    Attributes:
        measurement: the measurement.
        report_data: the 64 bytes that it submitted for signing.
    """

    measurement: Measurement
    report_data: bytes


Verifier: TypeAlias = Callable[[bytes], Attested]
"""Verifies a hardware quote, or raises `ClovenError` with all its problems; see `cloven.enclave.dcap`."""


@dataclass(frozen=True)
class Expected:
    """The owner's requirements for an enclave before a key is released.

    Attributes:
        measurement: the required measurement. If its kind is a hardware kind, only a hardware quote is accepted.
        verifier: the verifier of hardware quotes; required for hardware kinds, None for others.
        accept: the kind of the measurement if it is not a hardware kind: the owner explicitly accepts a measurement
            that the host could claim.

    Raises:
        ClovenError: if these contradict each other, or would accept a quote that proves nothing.
    """

    measurement: Measurement
    verifier: Verifier | None = field(default=None, repr=False)
    accept: str | None = None

    def __post_init__(self) -> None:
        kind = self.measurement.kind
        if self.accept is not None and (self.accept != kind or kind in HARDWARE):
            raise ClovenError(
                f"--accept is {self.accept}, but the expected measurement has the kind {kind}; "
                + ("omit --accept" if kind in HARDWARE else f"use --accept {kind}")
            )
        if kind in HARDWARE and self.verifier is None:
            raise ClovenError(
                f"the expected measurement has the kind {kind}, and an unverified hardware quote is never "
                "accepted; give Intel's collateral (--collateral FILE), or fetch it (--fetch-collateral URL)"
            )
        if kind not in HARDWARE and self.accept is None:
            raise ClovenError(
                f"the expected measurement has the kind {kind}, which proves nothing: {WORDS[kind]}; expect a "
                f"hardware measurement (sgx:... or tdx:...), or accept this one explicitly: --accept {kind}"
            )
        if kind not in HARDWARE and self.verifier is not None:
            raise ClovenError(
                "collateral is given, which verifies hardware quotes, but the expected measurement has the kind "
                f"{kind}; expect sgx:... or tdx:..., or omit the collateral"
            )


@dataclass(frozen=True)
class Quote:
    """The claims of an enclave about itself.

    Attributes:
        measurement: the measurement of program, plan and settings.
        folder_id: the id of the sealed folder that it would open.
        public_key: the X25519 public key, 32 bytes, fresh for each start.
        report_data: 64 bytes that bind key, nonce and folder, see `binding`.
        evidence: the hardware quote; empty if there is none.
    """

    measurement: Measurement
    folder_id: str
    public_key: bytes
    report_data: bytes
    evidence: bytes = field(default=b"", repr=False)

    @property
    def words(self) -> str:
        """Return how far the measurement of an accepted quote can be trusted."""
        return f"{self.measurement.kind}: {WORDS[self.measurement.kind]}"

    @property
    def run(self) -> str:
        """Return the id of the run that a release for this quote starts: of one nonce and one enclave start."""
        return self.report_data[:32].hex()

    def message(self) -> bytes:
        """Return the quote as a message."""
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
    """Parse the message of a quote.

    Raises:
        ClovenError: lists every field that is missing, unknown or malformed.
    """
    found = parse_message(QuoteMessage, text, "a quote")
    try:
        evidence = base64.b64decode(found.evidence, validate=True)
    except ValueError:
        raise ClovenError("the evidence of the quote is not base64; request another quote") from None
    return Quote(
        measurement=Measurement.parse(found.measurement),
        folder_id=found.folder_id,
        public_key=bytes.fromhex(found.public_key),
        report_data=bytes.fromhex(found.report_data),
        evidence=evidence,
    )


def binding(public_key: bytes, nonce: bytes, folder_id: str) -> bytes:
    """Return the 64 bytes of report data that bind a public key to the owner's nonce and the folder."""
    return hashlib.sha512(b"cloven quote" + public_key + nonce + folder_id.encode()).digest()


def verify(quote: Quote, nonce: bytes, *, expect: Expected, folder_id: str) -> None:
    """Raise `ClovenError` with every problem of a quote; the arguments are those of `problems`."""
    if found := problems(quote, nonce, expect, folder_id):
        raise ClovenError(found)


def problems(quote: Quote, nonce: bytes, expect: Expected, folder_id: str) -> list[str]:
    """Return the reasons not to release a key for a quote; empty if there are none.

    Args:
        quote: the enclave's answer.
        nonce: the 32 random bytes that were sent.
        expect: the owner's requirements.
        folder_id: the id of the expected sealed folder.
    """
    found = []
    if quote.measurement.kind != expect.measurement.kind:
        found.append(
            f"the enclave's measurement has the kind {quote.measurement.kind}, expected "
            f"{expect.measurement.kind}: this is another kind of enclave"
        )
    elif quote.measurement != expect.measurement:
        found.append(
            f"the enclave's measurement is {quote.measurement}, expected {expect.measurement}: it runs another "
            "program, plan or setting; if that is intended, pass its measurement to --expect"
        )
    if quote.folder_id != folder_id:
        found.append(f"the quote is for the sealed folder {quote.folder_id}, expected {folder_id}")
    bound = binding(quote.public_key, nonce, quote.folder_id)
    if quote.report_data != bound:
        found.append(
            "the quote does not answer this request: its report data does not bind its public key to the nonce; "
            "the quote was replayed or modified: the relay may be compromised"
        )
    return found + evidence_problems(quote.evidence, expect, bound)


def evidence_problems(evidence: bytes, expect: Expected, bound: bytes) -> list[str]:
    """Return the problems of a quote's evidence by the owner's requirements, not by the enclave's claims."""
    if expect.verifier is None:
        if not evidence:
            return []
        return [f"the quote has {len(evidence)} bytes of evidence; expected none for {expect.measurement.kind}"]
    if not evidence:
        return [f"the enclave did not send a hardware quote; expected one of the kind {expect.measurement.kind}"]
    try:
        attested = expect.verifier(evidence)
    except ClovenError as error:
        return list(error.problems)
    found = []
    if attested.measurement != expect.measurement:
        found.append(f"the processor measured {attested.measurement}, expected {expect.measurement}")
    if attested.report_data != bound:
        found.append(
            "the hardware quote belongs to another request: its report data does not bind the public key to the "
            "nonce"
        )
    return found
