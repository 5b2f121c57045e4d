"""A mock processor vendor: a root, platforms with certificates, collateral, and signed quotes.

It provides what Intel cannot: validly signed quotes of enclaves and platforms that must be refused.

Layouts: Intel SGX ECDSA Quote Library Reference (DCAP), A.4; Intel TDX DCAP Quoting Library API, A.3; Intel SGX PCK
Certificate and Certificate Revocation List Profile, 1.3.5.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cloven.enclave.collateral import parse_collateral
from cloven.enclave.dcap import STRICT, Policy, Verified, verifier
from cloven.enclave.quote import SGX, TDX, Measurement

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MRENCLAVE = "ab" * 32
INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""The vendor id of the quoting enclave in a quote's header."""
QE_SIGNER = bytes(range(32))
FMSPC = bytes.fromhex("00a067110000")
SVNS = 11, 11, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0
PCESVN = 13
EXTENSION = bytes.fromhex("2a864886f84d010d01")
"""1.2.840.113741.1.13.1: Intel's extension of a platform's certificate."""


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def raw(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def signature(private: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    r, s = utils.decode_dss_signature(private.sign(content, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = bytes([len(content)]) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes([tag]) + size + content


def platform_extension() -> x509.UnrecognizedExtension:
    """Return PPID, TCB (16 components, PCESVN, CPUSVN), PCEID, FMSPC and the type."""

    def entry(number: bytes, value: bytes) -> bytes:
        return der(0x30, der(0x06, EXTENSION + number), value)

    numbers = [*SVNS, PCESVN]
    tcb = [entry(bytes([2, i]), der(0x02, bytes([svn]))) for i, svn in enumerate(numbers, 1)]
    tcb.append(entry(bytes([2, 18]), der(0x04, bytes(SVNS))))
    content = der(
        0x30,
        entry(b"\x01", der(0x04, bytes(16))),
        entry(b"\x02", der(0x30, *tcb)),
        entry(b"\x03", der(0x04, bytes(2))),
        entry(b"\x04", der(0x04, FMSPC)),
        entry(b"\x05", der(0x0A, b"\0")),
    )
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), content)


def name(words: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words)])


@dataclass(frozen=True, eq=False)
class Authority:
    """An authority that signs certificates and revocation lists."""

    subject: str
    private: ec.EllipticCurvePrivateKey = field(default_factory=key)

    def certificate(
        self, subject: str, public: ec.EllipticCurvePrivateKey, *, ca: bool = False, platform: bool = False
    ) -> x509.Certificate:
        made = x509.CertificateBuilder(
            name(self.subject),
            name(subject),
            public.public_key(),
            x509.random_serial_number(),
            NOW - DAY,
            NOW + DAY,
        ).add_extension(x509.BasicConstraints(ca, None), critical=True)
        if platform:
            made = made.add_extension(platform_extension(), critical=False)
        return made.sign(self.private, SHA256())

    def revoked(self, *certificates: x509.Certificate, until: datetime = NOW + DAY) -> str:
        """Return a revocation list, in hexadecimal digits."""
        made = x509.CertificateRevocationListBuilder(name(self.subject), NOW - DAY, until)
        made = made.add_extension(x509.CRLNumber(1), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private.public_key()), critical=False
        )
        for certificate in certificates:
            one = x509.RevokedCertificateBuilder(certificate.serial_number, NOW - DAY).build()
            made = made.add_revoked_certificate(one)
        return made.sign(self.private, SHA256()).public_bytes(Encoding.DER).hex()


def pem(*certificates: x509.Certificate) -> str:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates).decode()


@dataclass(frozen=True, eq=False)
class Platform:
    """A processor; each field can be set to a wrong value."""

    root: Authority = field(default_factory=lambda: Authority("Root"))
    middle: Authority = field(default_factory=lambda: Authority("Intel SGX PCK Platform CA"))
    signer: Authority = field(default_factory=lambda: Authority("TCB Signing"))
    private: ec.EllipticCurvePrivateKey = field(default_factory=key)
    chain: tuple[x509.Certificate, ...] = ()
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    tcb_svns: tuple[int, ...] = SVNS
    qe_vendor: bytes = INTEL
    qe_signer: bytes = QE_SIGNER
    qe_product: int = 1
    qe_isvsvn: int = 8
    qe_flags: int = 0x11
    qe_bound: bool = True
    flags: int = 0x5
    cpusvn: bytes = bytes(SVNS)
    td_attributes: int = 1 << 28

    @property
    def root_der(self) -> bytes:
        return _root(self.root).public_bytes(Encoding.DER)

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates of the platform, the CA and the root."""
        return self.chain or _chain(self)

    def collateral_json(self, kind: str = SGX, **changes: Any) -> str:
        """Return the collateral as JSON, with changes to its parts."""
        issued = {"issueDate": f"{NOW - DAY:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{NOW + DAY:%Y-%m-%dT%H:%M:%SZ}"}
        common = {**issued, "tcbEvaluationDataNumber": 17}
        level = {"tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": self.status, "advisoryIDs": list(self.advisories)}
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8}
        tcb: dict[str, Any] = {"pcesvn": PCESVN, "sgxtcbcomponents": [{"svn": svn} for svn in self.tcb_svns]}
        if kind == TDX:
            tcb["tdxtcbcomponents"] = [{"svn": 1}, *({"svn": 0} for _ in range(15))]
        tcb_info = {
            "id": kind.upper(),
            "version": 3,
            **common,
            "fmspc": FMSPC.hex(),
            "pceId": "0000",
            "tcbType": 0,
            **({"tdxModule": module, "tdxModuleIdentities": []} if kind == TDX else {}),
            "tcbLevels": [{"tcb": tcb, **level}],
        }
        identity = {
            "id": "QE" if kind == SGX else "TD_QE",
            "version": 2,
            **common,
            "miscselect": "00000000",
            "miscselectMask": "ffffffff",
            "attributes": "11" + "00" * 15,
            "attributesMask": "fb" + "ff" * 7 + "00" * 8,
            "mrsigner": QE_SIGNER.hex(),
            "isvprodid": 1,
            "tcbLevels": [{"tcb": {"isvsvn": 8}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}],
        }
        signers = pem(self.root.certificate("TCB Signing", self.signer.private), _root(self.root))
        tcb_text, identity_text = (json.dumps(part, separators=(",", ":")) for part in (tcb_info, identity))
        document = {
            "pck_crl_issuer_chain": pem(*self.certificates[1:]),
            "root_ca_crl": self.root.revoked(),
            "pck_crl": self.middle.revoked(),
            "tcb_info_issuer_chain": signers,
            "tcb_info": tcb_text,
            "tcb_info_signature": signature(self.signer.private, tcb_text.encode()).hex(),
            "qe_identity_issuer_chain": signers,
            "qe_identity": identity_text,
            "qe_identity_signature": signature(self.signer.private, identity_text.encode()).hex(),
        }
        return json.dumps(document | changes)

    def collateral(self, kind: str = SGX, **changes: Any) -> QuoteCollateralV3:
        return parse_collateral(self.collateral_json(kind, **changes), "the collateral")

    def verifier(self, kind: str = SGX, policy: Policy = STRICT, **changes: Any) -> Callable[[bytes], Verified]:
        return verifier(self.collateral(kind, **changes), policy, root=self.root_der, now=NOW)

    def quote(self, report_data: bytes, kind: str = SGX, mrenclave: str = MRENCLAVE) -> bytes:
        """Return a quote with all its signatures."""
        body = self._enclave(report_data, mrenclave) if kind == SGX else self._domain(report_data)
        version, tee = (3, 0) if kind == SGX else (4, 0x81)
        signed = struct.pack("<HHI4s16s20s", version, 2, tee, bytes(4), self.qe_vendor, bytes(20)) + body
        attestation, own = key(), bytes(range(32))
        bound = hashlib.sha256(raw(attestation) + own).digest() if self.qe_bound else bytes(32)
        report = _report(
            bytes(SVNS), self.qe_flags, bytes(32), self.qe_signer, self.qe_product, self.qe_isvsvn, bound
        )
        certificates = pem(*self.certificates).encode()
        certified = (
            report
            + signature(self.private, report)
            + struct.pack("<H", len(own))
            + own
            + struct.pack("<HI", 5, len(certificates))
            + certificates
        )
        if kind == TDX:
            certified = struct.pack("<HI", 6, len(certified)) + certified
        content = signature(attestation, signed) + raw(attestation) + certified
        return signed + struct.pack("<I", len(content)) + content

    def _enclave(self, report_data: bytes, mrenclave: str) -> bytes:
        return _report(self.cpusvn, self.flags, bytes.fromhex(mrenclave), bytes(32), 0, 0, report_data)

    def _domain(self, report_data: bytes) -> bytes:
        registers = [bytes(48), bytes(48), bytes(8), self.td_attributes.to_bytes(8, "little"), bytes(8)]
        measured = [bytes([i]) * 48 for i in range(8)]
        return b"".join([b"\x01" + bytes(15), *registers, *measured, report_data.ljust(64, b"\0")])


def _report(
    cpusvn: bytes, flags: int, mrenclave: bytes, signer: bytes, product: int, isvsvn: int, report_data: bytes
) -> bytes:
    """Return an SGX report body, 384 bytes."""
    return struct.pack(
        "<16s32xQ8x32s32x32s96xHH60x64s", cpusvn, flags, mrenclave, signer, product, isvsvn, report_data
    )


@cache
def _root(root: Authority) -> x509.Certificate:
    return root.certificate(root.subject, root.private, ca=True)


@cache
def _chain(made: Platform) -> tuple[x509.Certificate, ...]:
    return (
        made.middle.certificate("PCK", made.private, platform=True),
        made.root.certificate(made.middle.subject, made.middle.private, ca=True),
        _root(made.root),
    )


@cache
def platform() -> Platform:
    return Platform()


MEASURED = Measurement(SGX, MRENCLAVE)
TD_MEASURED = Measurement(TDX, hashlib.sha256(b"".join(bytes([i]) * 48 for i in range(8))).hexdigest())
