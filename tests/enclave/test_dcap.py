"""SGX quotes with all their signatures, under a root of our own: accepted whole, refused with one bit changed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cloven.enclave.dcap import INTEL_ROOT, QE_SIGNER, verifier
from cloven.enclave.owner import data_key
from cloven.enclave.quote import SIGNED_BYTES
from cloven.enclave.release import release, waiting
from cloven.errors import ClovenError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NONCE, OWNER, MEASURED = bytes(range(32)), bytes(32), "ab" * 32


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def raw(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def signature(private: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    r, s = utils.decode_dss_signature(private.sign(content, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def name(words: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words)])


@dataclass(frozen=True, eq=False)
class Authority:
    """Who signs certificates, and lists of those revoked."""

    subject: str
    private: ec.EllipticCurvePrivateKey

    def certificate(
        self, subject: str, public: ec.EllipticCurvePrivateKey, *, ca: bool, until: datetime = NOW + DAY
    ) -> x509.Certificate:
        made = x509.CertificateBuilder(
            name(self.subject), name(subject), public.public_key(), x509.random_serial_number(), NOW - DAY, until
        )
        return made.add_extension(x509.BasicConstraints(ca, None), critical=True).sign(self.private, SHA256())

    def revoked(self, *certificates: x509.Certificate, until: datetime = NOW + DAY) -> bytes:
        made = x509.CertificateRevocationListBuilder(name(self.subject), NOW - DAY, until)
        for certificate in certificates:
            one = x509.RevokedCertificateBuilder(certificate.serial_number, NOW - DAY).build()
            made = made.add_revoked_certificate(one)
        return made.sign(self.private, SHA256()).public_bytes(Encoding.DER)


@dataclass(frozen=True, eq=False)
class Platform:
    """A processor with its certificates, and all that can be other than it should be."""

    root: Authority
    middle: Authority
    private: ec.EllipticCurvePrivateKey
    certificates: tuple[x509.Certificate, ...]
    signer: bytes = QE_SIGNER
    product: int = 1
    flags: int = 0x11
    bound: bool = True
    kind: int = 5

    def quote(self, report_data: bytes) -> bytes:
        header = (3).to_bytes(2, "little") + (2).to_bytes(2, "little") + bytes(44)
        body = bytearray(384)
        body[48:56] = (0x5).to_bytes(8, "little")
        body[64:96] = bytes.fromhex(MEASURED)
        body[320 : 320 + len(report_data)] = report_data
        attestation, own = key(), bytes(range(32))
        report = bytearray(384)
        report[48:56] = self.flags.to_bytes(8, "little")
        report[128:160] = self.signer
        report[256:258] = self.product.to_bytes(2, "little")
        report[320:352] = hashlib.sha256(raw(attestation) + own).digest() if self.bound else bytes(32)
        signed, by = header + bytes(body), bytes(report)
        pem = b"".join(c.public_bytes(Encoding.PEM) for c in self.certificates) + b"\0"
        content = (
            signature(attestation, signed) + raw(attestation) + by + signature(self.private, by)
            + struct.pack("<H", len(own)) + own + struct.pack("<HI", self.kind, len(pem)) + pem
        )  # fmt: skip
        return signed + struct.pack("<I", len(content)) + content

    def lists(self, folder: Path, *contents: bytes) -> list[Path]:
        paths = [folder / f"{i}.crl" for i in range(len(contents or range(2)))]
        for path, content in zip(paths, contents or (self.middle.revoked(), self.root.revoked()), strict=True):
            path.write_bytes(content)
        return paths


@cache
def platform() -> Platform:
    root, middle, leaf = Authority("Root", key()), Authority("Platform CA", key()), key()
    certificates = (
        middle.certificate("PCK", leaf, ca=False),
        root.certificate("Platform CA", middle.private, ca=True),
        root.certificate("Root", root.private, ca=True),
    )
    return Platform(root, middle, leaf, certificates)


def problems(made: Platform, folder: Path, *lists: bytes, now: datetime = NOW) -> list[str]:
    chain = verifier(platform().lists(folder, *lists), root=raw(platform().root.private), now=now)
    return chain(made.quote(b"x" * 32))


def test_a_key_goes_to_an_enclave_whose_quote_leads_to_the_root(tmp_path: Path) -> None:
    chain = verifier(platform().lists(tmp_path), root=raw(platform().root.private), now=NOW)
    trusted = waiting("gramine-sgx", MEASURED, "folder-1", prove=platform().quote)

    sent = release(trusted.quote(NONCE), NONCE, expect=MEASURED, owner_key=OWNER, chain=chain)

    assert trusted.accept(sent) == data_key(OWNER, "folder-1")


def test_intels_root_is_another(tmp_path: Path) -> None:
    found = verifier(platform().lists(tmp_path), now=NOW)(platform().quote(b"x" * 32))

    assert found == ["the hardware quote's certificates do not lead to Intel's SGX root"]
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + INTEL_ROOT)  # a point of the curve


def other_leaf() -> tuple[x509.Certificate, ...]:
    """A certificate that the CA's namesake has signed."""
    _, *above = platform().certificates
    return (Authority("Platform CA", key()).certificate("PCK", platform().private, ca=False), *above)


def leaf_as_ca() -> tuple[x509.Certificate, ...]:
    """What a platform's key has signed itself: it may not."""
    leaf, private = platform().certificates[0], key()
    forged = Authority("PCK", platform().private).certificate("forged", private, ca=False)
    return (forged, leaf, platform().certificates[2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signer": bytes(32)}, "made by another enclave than Intel's quoting enclave"),
        ({"product": 2}, "made by another enclave than Intel's quoting enclave"),
        ({"flags": 0x13}, "the quoting enclave is a debug enclave"),
        ({"bound": False}, "did not make the key that the hardware quote is signed with"),
        ({"private": key()}, "report was not signed by the platform's key"),
        ({"kind": 3}, "certification data of kind 3; expected 5"),
        ({"certificates": platform().certificates[:2]}, "has 2 certificates; expected 3"),
        ({"certificates": other_leaf()}, "of CN=PCK was not signed by the certificate of CN=Platform CA"),
        ({"certificates": leaf_as_ca()}, "the certificate of CN=PCK may sign no certificates"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(change: dict[str, object], said: str, tmp_path: Path) -> None:
    found = problems(replace(platform(), **change), tmp_path)  # type: ignore[arg-type]

    assert [problem for problem in found if said in problem]


def test_certificates_and_lists_have_their_time(tmp_path: Path) -> None:
    late = problems(platform(), tmp_path, now=NOW + 2 * DAY)

    assert len([problem for problem in late if "is valid from 2026-05-31 to 2026-06-02, not today" in problem]) == 3
    assert len([problem for problem in late if "no list of what" in problem]) == 2


def test_what_is_revoked_is_refused_and_who_is_not_asked_is_missed(tmp_path: Path) -> None:
    made = platform()
    leaf, middle, _ = made.certificates

    assert problems(made, tmp_path, made.middle.revoked(leaf), made.root.revoked()) == [
        "the certificate of CN=PCK is revoked"
    ]
    assert problems(made, tmp_path, made.middle.revoked(), made.root.revoked(middle)) == [
        "the certificate of CN=Platform CA is revoked"
    ]
    (missed,) = problems(made, tmp_path, made.middle.revoked())
    assert "no list of what the certificate of CN=Root has revoked is at hand" in missed
    forged = Authority("Root", key()).revoked()
    assert problems(made, tmp_path, made.middle.revoked(), forged) == [missed]


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"-----BEGIN nonsense")
    (tmp_path / "b").write_bytes(b"nonsense")

    with pytest.raises(ClovenError) as caught:
        verifier([tmp_path / "a", tmp_path / "b", tmp_path / "c"])

    assert [problem.partition(" is ")[2][:7] for problem in caught.value.problems[:2]] == ["no list"] * 2
    assert caught.value.problems[2].startswith("cannot read")


@cache
def whole() -> bytes:
    return platform().quote(b"x" * 32)


@cache
def chain_of(folder: Path) -> Callable[[bytes], list[str]]:
    return verifier(platform().lists(folder), root=raw(platform().root.private), now=NOW)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@given(place=st.integers(0, SIGNED_BYTES + 4 + 64 + 64 + 384 + 64 + 2 + 32 - 1), bit=st.integers(0, 7))
def test_a_quote_with_one_bit_changed_is_refused(lists: Path, place: int, bit: int) -> None:
    changed = bytearray(whole())
    changed[place] ^= 1 << bit

    assert not chain_of(lists)(whole())
    assert chain_of(lists)(bytes(changed))


@given(size=st.integers(SIGNED_BYTES, 10_000))
def test_a_quote_that_is_cut_off_is_refused(lists: Path, size: int) -> None:
    cut = whole()[: min(size, len(whole()) - 1)]

    assert chain_of(lists)(cut)
    assert chain_of(lists)(whole() + b"x")
