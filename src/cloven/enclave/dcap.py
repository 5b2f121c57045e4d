"""Verify SGX and TDX quotes with Intel's collateral, and check them against the owner's policy.

The library dcap-qvl verifies a quote up to Intel's root: the platform's certificate and the revocation lists, the
quoting enclave and its identity, the signatures, and the level of microcode and firmware (TCB) with its advisories.
It rejects expired data, a revoked TCB, and debug enclaves or trust domains. It accepts trailing bytes after a
quote, an enclave that was never initialised, and a CPUSVN of zero: this module rejects them. The owner chooses the
acceptable statuses and advisories (`Policy`); `cloven.enclave.quote` compares measurement and report data.

Sources: Intel SGX ECDSA Quote Library Reference (DCAP), A.4; Intel TDX DCAP Quoting Library API, A.3; Intel SDM
volume 3D, REPORT.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cloven.documents import Document, read_toml_document
from cloven.enclave.quote import SGX, TDX, Attested, Measurement
from cloven.errors import ClovenError, one_line, require

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

log = logging.getLogger("cloven")

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""The TCB statuses of a platform that a policy may accept; the seventh, Revoked, is always rejected."""
Advisory = Annotated[str, Field(pattern=r"^INTEL-(SA|DOC)-[0-9]{5}$")]
INIT, DEBUG = 0x1, 0x2
"""Bits of an SGX enclave's attributes."""
UNDER_DEBUG = 0xFF
"""The bits of a trust domain's attributes that make it untrusted."""
TD_REGISTERS = "mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"
"""The registers whose SHA-256 is a ``tdx:`` measurement: firmware, its configuration, and the booted software."""


class Policy(Document):
    """The owner's requirements for a platform; by default only an up-to-date TCB is accepted.

    Attributes:
        version: the version of this document.
        tcb_status: the accepted statuses.
        rejected_advisories: quotes of platforms that one of these advisories affects are rejected.
        minimum_tcb_evaluation: the lowest accepted number of Intel's TCB evaluation in the collateral. It rises
            with each TCB recovery; without it, collateral from before a recovery is accepted until it expires.
    """

    version: Literal[1] = 1
    tcb_status: tuple[Status, ...] = Field(default=("UpToDate",), min_length=1)
    rejected_advisories: tuple[Advisory, ...] = ()
    minimum_tcb_evaluation: int = Field(default=0, ge=0)


STRICT = Policy()


@dataclass(frozen=True)
class Verified(Attested):
    """The content of a verified quote, with the enclave's protection and its platform.

    Attributes:
        attributes: the attributes of the enclave or the trust domain, as an integer.
        cpusvn: the security version of the processor, or of the TDX module, 16 bytes.
        status: the TCB status of the platform, see `Status`.
        advisories: the numbers of Intel's advisories that affect the platform.
        tcb_evaluation: the number of the TCB evaluation in the collateral.
    """

    attributes: int
    cpusvn: bytes
    status: str
    advisories: tuple[str, ...]
    tcb_evaluation: int


def read_policy(path: Path) -> Policy:
    """Read a policy from a TOML file.

    Raises:
        ClovenError: lists every entry that is unknown or wrong.
    """
    return read_toml_document(Policy, path)


def verifier(
    collateral: QuoteCollateralV3,
    policy: Policy = STRICT,
    *,
    root: bytes | None = None,
    now: datetime | None = None,
) -> Callable[[bytes], Verified]:
    """Return a function that verifies a hardware quote and checks its platform against a policy.

    Args:
        collateral: see `cloven.enclave.collateral`.
        policy: the requirements for the platform.
        root: the root certificate, DER; by default Intel's SGX root.
        now: the time at which collateral and certificates must be valid; by default the time of the verification.
    """

    def checked(evidence: bytes) -> Verified:
        found = verified(evidence, collateral, root=root, now=now or datetime.now(UTC))
        if problems := objections(found, policy):
            raise ClovenError(problems)
        advisories = ", ".join(found.advisories) or "none"
        log.info("hardware quote verified: TCB status %s, Intel's advisories: %s", found.status, advisories)
        return found

    return checked


def verified(evidence: bytes, collateral: QuoteCollateralV3, *, root: bytes | None, now: datetime) -> Verified:
    """Return the content of a quote after verifying its signatures up to the root; no policy is applied.

    Raises:
        ClovenError: if the quote or the collateral is not valid; it quotes the library's reason.
    """
    try:
        import dcap_qvl
    except ImportError as error:
        raise require("attest", error) from error
    seconds = int(now.timestamp())
    try:
        if root is None:
            made = dcap_qvl.verify(evidence, collateral, seconds)
        else:
            made = dcap_qvl.verify_with_root_ca(evidence, collateral, root, seconds)
        quote = dcap_qvl.parse_quote(evidence)
    except ValueError as error:
        reason = _sentence(error)
        again = "; fetch the collateral again (--fetch-collateral)" if "xpired" in reason else ""
        raise ClovenError(f"cannot verify the hardware quote with this collateral: {reason}{again}") from error
    _check_end(evidence)
    report, sgx = quote.report, quote.is_sgx()
    return Verified(
        measurement=measurement(SGX if sgx else TDX, report),
        report_data=report.report_data,
        attributes=int.from_bytes(report.attributes if sgx else report.td_attributes, "little"),
        cpusvn=report.cpu_svn if sgx else report.tee_tcb_svn,
        status=made.status,
        advisories=tuple(made.advisory_ids),
        tcb_evaluation=min(
            json.loads(part)["tcbEvaluationDataNumber"] for part in (collateral.tcb_info, collateral.qe_identity)
        ),
    )


def measurement(kind: str, report: Any) -> Measurement:
    """Return the measurement in a report of dcap-qvl: MRENCLAVE for SGX, a hash of the registers for TDX."""
    if kind == SGX:
        return Measurement(SGX, report.mr_enclave.hex())
    return Measurement(TDX, hashlib.sha256(b"".join(getattr(report, name) for name in TD_REGISTERS)).hexdigest())


def objections(found: Verified, policy: Policy) -> list[str]:
    """Return the reasons to reject a verified quote; empty if there are none."""
    said = []
    sgx = found.measurement.kind == SGX
    if found.attributes & (DEBUG if sgx else UNDER_DEBUG):
        said.append("it is a debug enclave, whose memory the host can read; start one with sgx.debug = false")
    if sgx and not found.attributes & INIT:
        said.append("the enclave was not initialised: INIT is missing in its attributes")
    if not any(found.cpusvn):
        said.append("the processor's security version (CPUSVN) is zero; expected the version of a real processor")
    if found.status not in policy.tcb_status:
        said.append(
            f"the platform's TCB status is {found.status}, expected {' or '.join(policy.tcb_status)}: update "
            "its microcode and firmware, or accept the status in a policy (--policy)"
            + (f"; Intel's advisories: {', '.join(found.advisories)}" if found.advisories else "")
        )
    if rejected := [name for name in found.advisories if name in policy.rejected_advisories]:
        said.append(f"the platform is affected by {', '.join(rejected)}, which the policy rejects")
    if found.tcb_evaluation < policy.minimum_tcb_evaluation:
        said.append(
            f"the collateral has Intel's TCB evaluation {found.tcb_evaluation}, expected "
            f"{policy.minimum_tcb_evaluation} or later: fetch newer collateral (--fetch-collateral)"
        )
    return said


def _check_end(evidence: bytes) -> None:
    """Reject trailing bytes after a quote, except zeros, with which trust domains pad their quotes.

    The library reads the declared length and ignores the rest. If a quote without padding still parses without its
    last byte, that byte was not part of it.
    """
    import dcap_qvl

    try:
        dcap_qvl.parse_quote(evidence.rstrip(b"\0")[:-1])
    except ValueError:
        return
    raise ClovenError("there are bytes after the end of the hardware quote; request another quote")


def _sentence(error: ValueError) -> str:
    """Return the library's message on one line: it contains a chain of causes, and may quote the host's bytes."""
    text = str(error).removeprefix("Verification failed: ").replace("Caused by:", "-")
    return one_line(" ".join(text.split()))
