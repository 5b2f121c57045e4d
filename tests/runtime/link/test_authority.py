"""Folders of keys: their content and modes, and that files are never overwritten or incomplete."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloven.errors import ClovenError
from cloven.runtime.link import authority, identity
from cloven.runtime.link.authority import Copy
from cloven.runtime.link.keys import read_link_key

DEVICES = ["edge0", "edge_1", "Cam-2.lab"]
PARTIES = ["coordinator", *DEVICES]
NOW = datetime.now(UTC)
NOWHERE = Path(os.devnull) / "keys"
"""What cannot be made."""


def problems(*names: str) -> tuple[str, ...]:
    with pytest.raises(ClovenError) as caught:
        authority.new(names, NOWHERE)
    return caught.value.problems


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def modes(folder: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")]}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = tmp_path_factory.mktemp("made") / "some" / "keys"
    assert authority.new(DEVICES, keys) == tuple(Copy(party, keys / party) for party in PARTIES)
    return keys


@pytest.fixture
def keys(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "keys"))


def test_each_party_has_a_folder_with_all_it_needs_and_no_more(made: Path) -> None:
    due = {"authority/authority.pem", "authority/private.pem"}
    for party in PARTIES:
        due |= {f"{party}/{name}.pem" for name in ("authority", "certificate", "private")}
        due |= {f"{party}/links/{other}.key" for other in PARTIES if other != party}

    assert set(content(made)) == due
    assert list(made.parent.iterdir()) == [made]
    assert len({(made / party / "authority.pem").read_bytes() for party in [*PARTIES, "authority"]}) == 1
    assert len({(made / party / "private.pem").read_bytes() for party in [*PARTIES, "authority"]}) == 5


def test_each_pair_shares_a_key_of_its_own(made: Path) -> None:
    found = {
        frozenset((one, other)): read_link_key(made / one / "links" / f"{other}.key")
        for one in PARTIES
        for other in PARTIES
        if one != other
    }

    assert len(found) == len(set(found.values())) == 6
    for pair, key in found.items():
        one, other = pair
        assert read_link_key(made / one / "links" / f"{other}.key") == key
        assert read_link_key(made / other / "links" / f"{one}.key") == key


def test_a_certificate_is_for_one_name_and_for_tls_only(made: Path) -> None:
    serials = set()
    for party in PARTIES:
        one = certificate(made / party / "certificate.pem")
        get = one.extensions.get_extension_for_class
        serials.add(one.serial_number)
        key = one.public_key()
        usage = get(x509.KeyUsage).value

        assert one.version == x509.Version.v3
        assert isinstance(key, EllipticCurvePublicKey)
        assert isinstance(key.curve, SECP256R1)
        assert list(get(x509.SubjectAlternativeName).value) == [x509.DNSName(party)]
        assert get(x509.BasicConstraints).critical
        assert not get(x509.BasicConstraints).value.ca
        assert usage.digital_signature
        assert not usage.key_cert_sign
        assert set(get(x509.ExtendedKeyUsage).value) == {
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        }
    assert len(serials) == 4

    own = certificate(made / "authority" / "authority.pem")
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_certificates_are_valid_from_five_minutes_ago_for_so_many_days(tmp_path: Path) -> None:
    now = NOW.replace(microsecond=0)
    authority.new(["edge0"], tmp_path / "keys", days=30, now=now)

    one = certificate(tmp_path / "keys" / "edge0" / "certificate.pem")
    assert one.not_valid_before_utc == now - timedelta(minutes=5)
    assert one.not_valid_after_utc == now + timedelta(days=30)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl here")
def test_openssl_accepts_the_chain(made: Path) -> None:
    for purpose in ("sslserver", "sslclient"):
        done = subprocess.run(
            [
                *("openssl", "verify", "-x509_strict", "-purpose", purpose),
                *("-verify_hostname", "edge_1", "-CAfile", made / "edge0" / "authority.pem"),
                made / "edge_1" / "certificate.pem",
            ],
            capture_output=True,
            text=True,
        )
        assert done.stdout.endswith("certificate.pem: OK\n"), done.stderr


@pytest.mark.parametrize("umask", [0, 0o077, 0o022])
def test_all_is_for_the_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        authority.new(["edge0"], tmp_path / "keys")
        authority.add(tmp_path / "keys", ["edge1"])
        authority.renew(tmp_path / "keys")
    finally:
        os.umask(before)

    assert modes(tmp_path / "keys") == {(True, 0o700), (False, 0o600)}


@pytest.mark.parametrize(
    "name",
    [*"-a a- _a .a a. a..b a/b ../a a\\b a:b ä a@b *".split(), "", " a", "a b", "x" * 64, "a\0", "a\n"],
)
def test_names_that_are_none(name: str) -> None:
    assert problems(name) == (
        f"{name!r} is not a device name; expected 1 to 63 characters: letters a-z and A-Z, digits, '-', '_' "
        "and '.', with a letter or digit first and last, and no two dots in a row",
    )


def test_names_that_would_be_taken_for_something_else() -> None:
    found = problems("10.0.0.1", "Aux", "com1.lab", "0.1", "com1x", "0")
    assert len(found) == 3
    assert "'10.0.0.1' is an address, not a device name" in found[0]
    for name, problem in zip(("Aux", "com1.lab"), found[1:], strict=True):
        assert f"{name!r} is reserved on Windows" in problem


def test_names_must_differ_in_more_than_case() -> None:
    found = problems("edge0", "edge0", "EDGE0", "Coordinator", "authority")

    for name, other, problem in zip(
        ("edge0", "EDGE0", "Coordinator", "authority"),
        ("edge0", "edge0", "coordinator", "authority"),
        found,
        strict=True,
    ):
        assert f"the device name {name!r} is taken (by {other!r}): give each device a different name" in problem


def test_all_problems_are_told_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    for out in (tmp_path, tmp_path / "precious"):
        with pytest.raises(ClovenError) as caught:
            authority.new(["a b", "c", "c"], out, days=0)
        first, second, place, days = caught.value.problems
        assert "'a b' is not a device name" in first
        assert "'c' is taken" in second
        assert (
            f"{out} exists and is not an empty folder, and keys are never overwritten: choose another name" in place
        )
        assert days == "days must be between 1 and 3650, got 0"
    assert content(tmp_path) == {"precious": b"precious"}
    with pytest.raises(ClovenError, match="got no device name; expected at least one"):
        authority.new([], tmp_path / "keys", days=3650)
    assert not (tmp_path / "keys").exists()


def test_an_empty_folder_may_be_there_and_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    (tmp_path / "name").symlink_to("keys")
    authority.new(["edge0"], tmp_path / "name")

    assert modes(tmp_path / "keys") == {(True, 0o700), (False, 0o600)}


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "place_problems", lambda _: [])
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "precious").write_text("precious")
    with pytest.raises(ClovenError, match=r"cannot write .*keys: Directory not empty"):
        authority.new(["edge0"], tmp_path / "keys")

    assert content(tmp_path) == {"keys/precious": b"precious"}


def test_where_it_cannot_be_written_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 7:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClovenError, match=r"^cannot write .*keys: No space left on device$"):
        authority.new(DEVICES, tmp_path / "keys")
    assert list(tmp_path.iterdir()) == []


def test_devices_are_added_with_keys_for_all_pairs(keys: Path) -> None:
    before = content(keys)
    copies = authority.add(keys, ["edge3", "edge4"])
    after = content(keys)

    assert {path: after[path] for path in before} == before
    assert set(copies) == {
        *(Copy(party, keys / party / "links" / f"{new}.key") for party in PARTIES for new in ("edge3", "edge4")),
        Copy("edge3", keys / "edge3"),
        Copy("edge4", keys / "edge4"),
    }
    made = {path for copy in copies for path in [copy.path, *copy.path.rglob("*")] if path.is_file()}
    assert {str(path.relative_to(keys)) for path in made} == after.keys() - before.keys()
    everyone = {name: identity.read(keys / name, name) for name in [*PARTIES, "edge3", "edge4"]}
    for one in everyone.values():
        for other in everyone.values():
            if one is not other:
                assert one.link_key(other.name) == other.link_key(one.name)
    assert modes(keys) == {(True, 0o700), (False, 0o600)}


def test_adding_tells_all_problems_at_once(keys: Path) -> None:
    (keys / "edge3").mkdir()
    (keys / "edge3" / "precious").write_text("precious")
    before = content(keys)
    with pytest.raises(ClovenError) as caught:
        authority.add(keys, ["cam-2.LAB", "coordinator", "/etc", "edge3"], days=4000)

    one, two, three, place, days = caught.value.problems
    assert "'cam-2.LAB' is taken (by 'Cam-2.lab')" in one
    assert "'coordinator' is taken" in two
    assert "'/etc' is not a device name" in three
    assert f"{keys / 'edge3'} exists and is not an empty folder" in place
    assert "got 4000" in days
    assert content(keys) == before


def test_adding_needs_all_folders(keys: Path) -> None:
    shutil.move(keys / "edge0", keys.parent / "elsewhere")
    with pytest.raises(ClovenError) as caught:
        authority.add(keys, ["edge3"])

    assert len(caught.value.problems) == 1
    assert (
        f"links/edge0.key is a link key with edge0, but {keys / 'edge0'} is missing: copy that folder back"
        in str(caught.value)
    )


def test_adding_that_fails_halfway_is_undone(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(keys)
    rename = Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if target.name == "edge4":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(ClovenError, match=r"cannot write .*keys: Input/output error"):
        authority.add(keys, ["edge3", "edge4"])
    assert content(keys) == before
    assert {path.name for path in keys.iterdir()} == {*PARTIES, "authority"}


def test_renewing_makes_new_certificates_for_the_same_keys(keys: Path) -> None:
    before = content(keys)
    later = NOW + timedelta(days=100)
    some = authority.renew(keys, ["edge0", "coordinator", "edge0"], days=10, now=later)

    assert some == tuple(Copy(party, keys / party / "certificate.pem") for party in ("edge0", "coordinator"))
    changed = {path for path, data in content(keys).items() if data != before[path]}
    assert changed == {"edge0/certificate.pem", "coordinator/certificate.pem"}
    again = identity.read(keys / "edge0", "edge0", now=later)
    assert 9.9 < again.days_left(later) <= 10

    assert {copy.party for copy in authority.renew(keys)} == set(PARTIES)
    assert set(content(keys)) == set(before)
    for party in PARTIES:
        identity.read(keys / party, party)


def test_renewing_after_all_has_expired(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    authority.new(["edge0"], keys, days=1, now=NOW - timedelta(days=400))
    with pytest.raises(ClovenError, match="expired on"):
        identity.read(keys / "edge0")
    authority.renew(keys)
    identity.read(keys / "edge0")


def test_renewing_tells_all_problems_at_once(keys: Path) -> None:
    before = content(keys)
    with pytest.raises(ClovenError) as caught:
        authority.renew(keys, ["edge9", "edge0", "../edge0"], days=-1)
    one, two, days = caught.value.problems
    assert f"{keys} has no folder for 'edge9'; it has folders for Cam-2.lab, coordinator, edge0, edge_1" in one
    assert "'../edge0'" in two
    assert "got -1" in days
    assert content(keys) == before


def test_the_authority_signs_only_keys_that_it_has_signed_for_that_party(keys: Path, tmp_path: Path) -> None:
    authority.new(["edge0"], tmp_path / "others")
    shutil.copy(tmp_path / "others" / "edge0" / "certificate.pem", keys / "edge0")
    shutil.copy(keys / "coordinator" / "certificate.pem", keys / "edge_1")
    (keys / "Cam-2.lab" / "certificate.pem").write_text("?")
    before = content(keys)
    with pytest.raises(ClovenError) as caught:
        authority.renew(keys)

    garbage, other, twin = caught.value.problems
    assert "Cam-2.lab/certificate.pem is not a certificate in PEM format" in garbage
    assert "edge0/certificate.pem is not a certificate for edge0 by" in other
    assert "edge_1/certificate.pem is not a certificate for edge_1 by" in twin
    assert content(keys) == before


def test_no_certificate_outlives_the_authority(keys: Path) -> None:
    late = NOW + timedelta(days=20 * 365 - 100)
    for change in (lambda: authority.add(keys, ["edge3"], now=late), lambda: authority.renew(keys, now=late)):
        with pytest.raises(ClovenError, match=r"365 days would outlive their authority, which expires on 20\d\d-"):
            change()
    authority.renew(keys, days=90, now=late)
    with pytest.raises(ClovenError, match=r"authority.pem expired on .* create new keys for all devices"):
        authority.renew(keys, days=90, now=late + timedelta(days=101))


def test_an_authority_that_cannot_sign(keys: Path, tmp_path: Path) -> None:
    private = keys / "authority" / "private.pem"
    private.chmod(0o640)
    with pytest.raises(ClovenError, match=r"private.pem is accessible to other users \(mode 0640, expected 0600\)"):
        authority.renew(keys)
    shutil.copy(keys / "edge0" / "private.pem", private)
    private.chmod(0o600)
    with pytest.raises(ClovenError, match=r"private.pem is not the private key of .*authority.pem"):
        authority.add(keys, ["edge3"])
    private.unlink()
    with pytest.raises(ClovenError, match=r"authority/private.pem is missing"):
        authority.add(keys, ["edge3"])
    with pytest.raises(ClovenError, match=r"is not a folder of keys: .*authority is missing"):
        authority.add(keys / "edge0", ["edge3"])


def test_an_authority_shows_no_key(made: Path) -> None:
    shown = repr(authority.opened(made, datetime.now(UTC)))

    assert re.fullmatch(r"Authority\(certificate=<Certificate\(.*\)>\)", shown)
    assert "PrivateKey" not in shown
