"""Verify SGX and TDX quotes against Intel's collateral, and judge them by the owner's policy.

The library dcap-qvl follows a quote to Intel's root: the platform's certificate and the lists of those revoked, the
quoting enclave and its identity, the signatures, and the level of microcode and firmware (TCB) with the advisories
that concern it. It refuses what has expired, a revoked TCB, and a debug enclave or trust domain. It accepts bytes
behind a quote, an enclave that was never initialised, and a CPUSVN of zero: this module refuses them. The owner
says which statuses and advisories are acceptable (`Policy`); `cloven.enclave.quote` compares measurement and report
data.

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
"""Intel's judgement of a platform; a seventh, Revoked, can never be accepted."""
Advisory = Annotated[str, Field(pattern=r"^INTEL-(SA|DOC)-[0-9]{5}$")]
INIT, DEBUG = 0x1, 0x2
"""Bits of an SGX enclave's attributes."""
UNDER_DEBUG = 0xFF
"""The bits of a trust domain's attributes that make it untrusted."""
TD_REGISTERS = "mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"
"""Registers whose SHA-256 is a ``tdx:`` measurement: firmware, its configuration, and all that was booted."""


class Policy(Document):
    """The owner's requirements for a platform; by default only a TCB that is up to date is accepted.

    Attributes:
        version: of this document.
        tcb_status: statuses that are accepted.
        rejected_advisories: of a platform that one of these concerns, no quote is accepted.
        minimum_tcb_evaluation: number of Intel's evaluation that the collateral must have at least. It rises with
            each TCB recovery; without it, collateral from before a recovery is accepted until it expires.
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
        attributes: of the enclave or the trust domain, as an integer.
        cpusvn: security version of the processor, or of the TDX module, 16 bytes.
        status: Intel's judgement of the platform, see `Status`.
        advisories: numbers of Intel's advisories that concern the platform.
        tcb_evaluation: number of the evaluation that the collateral has.
    """

    attributes: int
    cpusvn: bytes
    status: str
    advisories: tuple[str, ...]
    tcb_evaluation: int


def read_policy(path: Path) -> Policy:
    """Return the policy in a TOML file.

    Raises:
        ClovenError: with every entry that is unknown or wrong.
    """
    return read_toml_document(Policy, path)


def verifier(
    collateral: QuoteCollateralV3,
    policy: Policy = STRICT,
    *,
    root: bytes | None = None,
    now: datetime | None = None,
) -> Callable[[bytes], Verified]:
    """Return the function that verifies a hardware quote and judges its platform.

    Args:
        collateral: see `cloven.enclave.collateral`.
        policy: what is accepted of a platform.
        root: certificate that all must lead to, DER; by default Intel's SGX root.
        now: when collateral and certificates must be valid; by default when a quote is verified.
    """

    def checked(evidence: bytes) -> Verified:
        found = verified(evidence, collateral, root=root, now=now or datetime.now(UTC))
        if problems := objections(found, policy):
            raise ClovenError(problems)
        advisories = ", ".join(found.advisories) or "none"
        log.info("the hardware quote is verified: TCB status %s, Intel's advisories: %s", found.status, advisories)
        return found

    return checked


def verified(evidence: bytes, collateral: QuoteCollateralV3, *, root: bytes | None, now: datetime) -> Verified:
    """Return what a quote says, once all its signatures lead to the root; nothing is judged yet.

    Raises:
        ClovenError: if the quote or the collateral does not verify, with the library's reason.
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
        raise ClovenError(f"the hardware quote does not verify with this collateral: {reason}{again}") from error
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
    """Return the measurement in a report of dcap-qvl: MRENCLAVE of SGX, a hash of the registers of TDX."""
    if kind == SGX:
        return Measurement(SGX, report.mr_enclave.hex())
    return Measurement(TDX, hashlib.sha256(b"".join(getattr(report, name) for name in TD_REGISTERS)).hexdigest())


def objections(found: Verified, policy: Policy) -> list[str]:
    """Return why the owner should not trust what a quote proves; empty if nothing is wrong."""
    said = []
    sgx = found.measurement.kind == SGX
    if found.attributes & (DEBUG if sgx else UNDER_DEBUG):
        said.append("it is a debug enclave, whose memory its host can read; start one with sgx.debug = false")
    if sgx and not found.attributes & INIT:
        said.append("the enclave was not initialised: its attributes lack INIT")
    if not any(found.cpusvn):
        said.append("the processor's security version (CPUSVN) is zero; expected that of a real processor")
    if found.status not in policy.tcb_status:
        said.append(
            f"the platform's TCB status is {found.status}, expected {' or '.join(policy.tcb_status)}: update "
            "its microcode and firmware, or accept the status in a policy (--policy)"
            + (f"; Intel's advisories: {', '.join(found.advisories)}" if found.advisories else "")
        )
    if rejected := [name for name in found.advisories if name in policy.rejected_advisories]:
        said.append(f"Intel's {', '.join(rejected)} concerns the platform, and the policy rejects it")
    if found.tcb_evaluation < policy.minimum_tcb_evaluation:
        said.append(
            f"the collateral has Intel's TCB evaluation {found.tcb_evaluation}, expected "
            f"{policy.minimum_tcb_evaluation} or later: fetch newer collateral (--fetch-collateral)"
        )
    return said


def _check_end(evidence: bytes) -> None:
    """Refuse bytes behind a quote; zeros are allowed, with which trust domains fill their quotes up.

    The library reads as far as the quote says and ignores the rest. So if a quote still parses without its last
    byte, padding aside, that byte was not part of it.
    """
    import dcap_qvl

    try:
        dcap_qvl.parse_quote(evidence.rstrip(b"\0")[:-1])
    except ValueError:
        return
    raise ClovenError("there are bytes behind the end of the hardware quote; ask the enclave for another one")


def _sentence(error: ValueError) -> str:
    """Return the library's reasons on one line: it prints a chain of causes, and may quote the host's bytes."""
    text = str(error).removeprefix("Verification failed: ").replace("Caused by:", "-")
    return one_line(" ".join(text.split()))
