"""Hardware quotes: real ones of Intel at their time, and validly signed ones of a mock vendor to be refused."""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloven.enclave.collateral import fetch_collateral, parse_collateral, read_collateral
from cloven.enclave.dcap import STRICT, Policy, Verified, objections, read_policy, verified, verifier
from cloven.enclave.quote import SGX, TDX
from cloven.errors import ClovenError
from tests.enclave.platforms import DAY, FMSPC, MEASURED, NOW, SVNS, TD_MEASURED, Authority, key, platform

DATA = Path(__file__).with_name("data")
REPORT_DATA = bytes(range(64))
LENIENT = Policy(tcb_status=("UpToDate", "ConfigurationAndSWHardeningNeeded"))
FINE = Verified(MEASURED, REPORT_DATA, 0x5, bytes(SVNS), "UpToDate", (), 17)
REAL = {
    "sgx_quote": datetime(2025, 6, 20, tzinfo=UTC),
    "tdx_quote": datetime(2025, 6, 20, tzinfo=UTC),
    "tdx_quote_outdated": datetime(2026, 3, 1, tzinfo=UTC),
}
"""The time at which the collateral of each quote is valid."""


def real(name: str) -> bytes:
    return (DATA / name).read_bytes()


def judged(name: str, evidence: bytes | None = None, *, policy: Policy = LENIENT, late: int = 0) -> Verified:
    """Verify a real or changed quote with Intel's root, optionally some days late."""
    collateral = read_collateral(DATA / f"{name}_collateral.json")
    verify = verifier(collateral, policy, now=REAL[name] + timedelta(days=late))
    return verify(real(name) if evidence is None else evidence)


# --- Intel's ----------------------------------------------------------------------------------------------------


def test_a_real_sgx_quote_verifies_with_its_status() -> None:
    found = judged("sgx_quote")

    assert str(found.measurement) == "sgx:33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"
    assert found.report_data == b"Hello, world!".ljust(64, b"\0")
    assert found.status == "ConfigurationAndSWHardeningNeeded"
    assert found.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")


def test_a_real_tdx_quote_verifies_with_its_status() -> None:
    found = judged("tdx_quote", policy=STRICT)

    assert found.measurement.kind == "tdx"
    assert found.report_data.hex().startswith("9a9d48e7f6799642")
    assert (found.status, found.advisories) == ("UpToDate", ())


def test_without_a_policy_only_a_tcb_up_to_date_is_accepted() -> None:
    with pytest.raises(ClovenError, match="TCB status is ConfigurationAndSWHardeningNeeded, expected UpToDate"):
        judged("sgx_quote", policy=STRICT)


def test_an_outdated_tcb_is_refused() -> None:
    with pytest.raises(ClovenError, match="No matching TCB level found"):
        judged("tdx_quote_outdated")


@pytest.mark.parametrize("name", ["sgx_quote", "tdx_quote"])
@pytest.mark.parametrize("late", [-300, 60])
def test_collateral_has_its_time(name: str, late: int) -> None:
    with pytest.raises(
        ClovenError, match=r"TCBInfo (expired; fetch the collateral again|issue date is in the future)"
    ):
        judged(name, late=late)


def test_another_platforms_collateral_verifies_nothing() -> None:
    collateral = read_collateral(DATA / "tdx_quote_collateral.json")
    with pytest.raises(ClovenError, match="cannot verify the hardware quote"):
        verifier(collateral, LENIENT, now=REAL["sgx_quote"])(real("sgx_quote"))


@pytest.mark.parametrize("name", ["sgx_quote", "tdx_quote"])
def test_every_changed_bit_is_refused_or_changes_nothing(name: str) -> None:
    """Everything is signed except the PEM armour of certificates, the copy of the root, and padding."""
    quote = real(name)
    expected, armour = judged(name), quote.index(b"-----BEGIN")
    accepted = 0
    for place in range(0, len(quote), 7):
        changed = bytearray(quote)
        changed[place] ^= 1 << place % 8
        try:
            assert judged(name, bytes(changed)) == expected, place
            accepted += 1
            # 632, 764: the sizes around the signed parts of a quote of version 4, which may count padding in.
            assert place > armour or 632 <= place < 770, place
        except ClovenError:
            pass
    assert accepted < (len(quote) - armour) / 7


@pytest.mark.parametrize("name", ["sgx_quote", "tdx_quote"])
def test_bytes_behind_a_quote_are_refused_unless_they_are_padding(name: str) -> None:
    assert judged(name, real(name) + bytes(100)) == judged(name)
    for behind in (b"x", bytes(100) + b"x", real(name)):
        with pytest.raises(ClovenError, match="bytes after the end"):
            judged(name, real(name) + behind)


@pytest.mark.parametrize(
    "call",
    [
        lambda: verifier(None, now=NOW)(b""),
        lambda: parse_collateral("{}", "it"),
        lambda: fetch_collateral("https://pccs.example.org", b""),
    ],
    ids=["verify", "parse", "fetch"],
)
def test_without_the_library_nothing_is_verified(
    call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)

    with pytest.raises(ClovenError, match=r"dcap_qvl is not installed; it comes with an extra: .*cloven\[attest\]"):
        call()


# --- quotes that must be refused --------------------------------------------------------------------------------


def test_a_made_up_makers_quote_verifies_under_its_root() -> None:
    assert platform().verifier()(platform().quote(REPORT_DATA)) == FINE
    assert platform().verifier(TDX)(platform().quote(REPORT_DATA, TDX)).measurement == TD_MEASURED


def test_and_not_under_intels() -> None:
    with pytest.raises(ClovenError, match="cannot verify the hardware quote"):
        verifier(platform().collateral(), now=NOW)(platform().quote(REPORT_DATA))


SGX_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "debug enclave": ({"flags": 0x7}, "Debug mode is enabled"),
    "enclave without INIT": ({"flags": 0x4}, "INIT is missing"),
    "zero CPUSVN": ({"cpusvn": bytes(16)}, r"\(CPUSVN\) is zero"),
    "foreign QE vendor": ({"qe_vendor": bytes(16)}, "Unknown QE vendor ID"),
    "QE ISVSVN 0": ({"qe_isvsvn": 0}, "QE ISVSVN 0 is below minimum required 8"),
    "QE ISVSVN too low": ({"qe_isvsvn": 7}, "QE ISVSVN 7 is below minimum required 8"),
    "another's QE": ({"qe_signer": bytes(32)}, "QE MRSIGNER mismatch"),
    "another product": ({"qe_product": 2}, "QE ISVPRODID mismatch"),
    "debug QE": ({"qe_flags": 0x13}, "Debug mode is enabled"),
    "QE without INIT": ({"qe_flags": 0x10}, "QE ATTRIBUTES mismatch"),
    "foreign attestation key": ({"qe_bound": False}, "QE report hash mismatch"),
    "foreign platform key": ({"chain": platform().certificates, "private": key()}, "invalid for qe_report"),
    "platform alone": ({"chain": platform().certificates[:1]}, "UnknownIssuer"),
    "outdated TCB": ({"tcb_svns": (12, *SVNS[1:])}, "No matching TCB level"),
    "revoked TCB": ({"status": "Revoked"}, "Revoked"),
    "hardening needed": ({"status": "SWHardeningNeeded"}, "TCB status is SWHardeningNeeded, expected UpToDate"),
    "advisories": ({"status": "OutOfDate", "advisories": ("INTEL-SA-00615",)}, "advisories: INTEL-SA-00615"),
}
TDX_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "debug domain": ({"td_attributes": 1 << 28 | 1}, "Debug mode is enabled"),
    "without SEPT_VE_DISABLE": ({"td_attributes": 0}, "SEPT_VE_DISABLE is not enabled"),
    "reserved bits": ({"td_attributes": 1 << 28 | 1 << 40}, "Reserved bits"),
    "foreign QE vendor": ({"qe_vendor": bytes(16)}, "Unknown QE vendor ID"),
}
WRONG = [(SGX, *case) for case in SGX_WRONG.values()] + [(TDX, *case) for case in TDX_WRONG.values()]


@pytest.mark.parametrize(
    ("kind", "change", "said"), WRONG, ids=[*SGX_WRONG, *(f"TDX {name}" for name in TDX_WRONG)]
)
def test_validly_signed_quotes_that_protect_nothing_are_refused(
    kind: str, change: dict[str, Any], said: str
) -> None:
    made = replace(platform(), **change)

    with pytest.raises(ClovenError, match=said):
        made.verifier(kind)(made.quote(REPORT_DATA, kind))


COLLATERAL_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "revoked platform": ({"pck_crl": platform().middle.revoked(platform().certificates[0])}, "CertRevoked"),
    "revoked CA": ({"root_ca_crl": platform().root.revoked(platform().certificates[1])}, "CertRevoked"),
    "expired CRL": (
        {"pck_crl": platform().middle.revoked(until=NOW - DAY / 2)},
        "CrlExpired.*fetch the collateral",
    ),
    "expired root CRL": ({"root_ca_crl": platform().root.revoked(until=NOW - DAY / 2)}, "CrlExpired"),
    "no CRL of the CA": ({"pck_crl": platform().root.revoked()}, "UnknownRevocationStatus"),
    "its namesake's CRL": ({"pck_crl": Authority(platform().middle.subject).revoked()}, "InvalidCrlSignature"),
    "empty CRL": ({"pck_crl": ""}, "Failed to parse PCK CRL"),
    "forged TCB": ({"tcb_info_signature": "11" * 64}, "Signature is invalid for tcb_info"),
    "forged identity": ({"qe_identity_signature": "11" * 64}, "Signature is invalid for qe_identity"),
}


@pytest.mark.parametrize(("change", "said"), COLLATERAL_WRONG.values(), ids=COLLATERAL_WRONG)
def test_collateral_that_revokes_or_is_not_the_makers_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ClovenError, match=said):
        platform().verifier(**change)(platform().quote(REPORT_DATA))


# --- the policy -------------------------------------------------------------------------------------------------


def test_a_policy_judges_a_platform() -> None:
    assert objections(FINE, STRICT) == []
    hardened = replace(FINE, status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    lenient = Policy(tcb_status=("UpToDate", "SWHardeningNeeded"))
    assert objections(hardened, lenient) == []
    rejecting = lenient.model_copy(
        update={"rejected_advisories": ("INTEL-SA-00615",), "minimum_tcb_evaluation": 18}
    )
    assert objections(hardened, rejecting) == [
        "the platform is affected by INTEL-SA-00615, which the policy rejects",
        "the collateral has Intel's TCB evaluation 17, expected 18 or later: fetch newer collateral "
        "(--fetch-collateral)",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": 0x7},
        {"measurement": TD_MEASURED, "attributes": 0x1},
        {"measurement": TD_MEASURED, "attributes": 0x80},
    ],
)
def test_no_policy_accepts_a_debug_enclave(change: dict[str, Any]) -> None:
    """The library refuses them too; this is a second check in case it stops doing so."""
    everything = Policy(tcb_status=("UpToDate", "OutOfDate"))
    (said,) = objections(replace(FINE, **change), everything)

    assert said.startswith("it is a debug enclave, whose memory the host can read")


def test_a_policy_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '\ufefftcb_status = ["UpToDate", "SWHardeningNeeded"]\n'
        'rejected_advisories = ["INTEL-SA-00615"]\nminimum_tcb_evaluation = 17\n'
    )

    assert read_policy(file) == Policy(
        tcb_status=("UpToDate", "SWHardeningNeeded"),
        rejected_advisories=("INTEL-SA-00615",),
        minimum_tcb_evaluation=17,
    )
    file.write_text("")
    assert read_policy(file) == STRICT


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tcb_status = ["Revoked"]', "tcb_status.0 is 'Revoked'; expected 'UpToDate'"),
        ("tcb_status = []", "tcb_status is empty; expected at least one entry"),
        ('tcb_statuses = ["UpToDate"]', "tcb_statuses is not a known entry"),
        ('rejected_advisories = ["intel-sa-00615"]', "rejected_advisories.0: String should match pattern"),
        ("minimum_tcb_evaluation = true", "minimum_tcb_evaluation is True; expected a whole number"),
        ("minimum_tcb_evaluation = 2025-06-20", "minimum_tcb_evaluation is '2025-06-20'; expected a whole number"),
        ("debug = true", "debug is not a known entry"),
        ("x", "is not valid TOML"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "policy.toml").write_text(text)

    with pytest.raises(ClovenError, match=said):
        read_policy(tmp_path / "policy.toml")


# --- mutated quotes ---------------------------------------------------------------------------------------------

LENGTHS = 432, 632, 764, 1012, 1018
"""The offsets of the lengths in quotes."""


def mutated(quote: bytes, rng: random.Random) -> bytes:
    """Return a quote with bits flipped, parts cut, repeated or swapped, or a changed length."""
    found = bytearray(quote)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(found) + 1), rng.choice((1, 2, 4, 16, 400))
        match rng.randrange(7):
            case 0:
                found[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in found[at : at + 1])
            case 1:
                found[at : at + size] = rng.randbytes(size)
            case 2:
                del found[at : at + size]
            case 3:
                found[at:at] = found[at : at + size]
            case 4:
                del found[at:]
            case 5:
                place = rng.choice(LENGTHS)
                found[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 2**16, 2**31, 2**32 - 1)))
            case _:
                field = rng.choice(((0, 2), (2, 2), (4, 4), (8, 2)))
                found[field[0] : sum(field)] = rng.randbytes(field[1])
    return bytes(found)


def told(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield mutated quotes that raised another error than `ClovenError`, or were accepted with other content."""
    rng = random.Random(seed)
    names = ("sgx_quote", "tdx_quote", "tdx_quote_outdated")
    verifiers = {
        name: verifier(read_collateral(DATA / f"{name}_collateral.json"), LENIENT, now=REAL[name]) for name in names
    }
    expected = {name: judged(name) for name in names[:2]}
    for _ in range(count):
        name = rng.choice(names)
        evidence = mutated(real(name), rng)
        try:
            if verifiers[name](evidence) != expected.get(name):
                yield "accepted", evidence
        except ClovenError:
            pass
        except BaseException as error:
            yield type(error).__name__, evidence


def test_mutated_quotes_raise_our_error_only() -> None:
    assert list(told(2000, seed=1)) == []


@pytest.mark.slow
def test_very_many_mutated_quotes_raise_our_error_only() -> None:
    assert list(told(100_000, seed=2)) == []


def test_anything_else_is_not_a_quote() -> None:
    for evidence in (b"", b"\0", bytes(432), bytes(5000), b"{}", os.urandom(2000), real("sgx_quote")[:432]):
        with pytest.raises(ClovenError, match="cannot verify the hardware quote"):
            judged("sgx_quote", evidence)


def test_mutated_collateral_raises_our_error_only() -> None:
    """The answers of a PCCS are not trusted: a change to one part is detected."""
    rng = random.Random(3)
    document = json.loads(platform().collateral_json())
    quote, root = platform().quote(REPORT_DATA), platform().root_der
    for _ in range(500):
        name = rng.choice(list(document))
        part = mutated(document[name].encode(), rng).decode("utf-8", "replace")
        try:
            changed = parse_collateral(json.dumps(document | {name: part}), "it")
            found = verified(quote, changed, root=root, now=NOW)
        except ClovenError:
            continue
        assert found == FINE


def test_the_platforms_model_is_part_of_what_is_compared() -> None:
    assert FMSPC.hex() in platform().collateral_json()
    other = platform().collateral_json().replace(FMSPC.hex(), "00" * 6)
    with pytest.raises(ClovenError, match="Signature is invalid"):
        verified(platform().quote(REPORT_DATA), parse_collateral(other, "it"), root=platform().root_der, now=NOW)
