"""A private certificate authority: creates the parties' folders, adds devices, and renews certificates.

    KEYS/authority/   the authority's certificate and private key: needed to add and to renew, never copied
    KEYS/edge0/       all that edge0 needs, see `cloven.runtime.link.identity`: copied to its host as it is
    KEYS/coordinator/ the same for the party that sends the images; always created

Folders have mode 0700 and files 0600, whatever the umask. Folders and files are created atomically, and only
`renew` replaces existing files. No message contains a key or any part of one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.errors import ClovenError, tried
from cloven.partition.protection import COORDINATOR
from cloven.runtime.link.certificates import (
    AUTHORITY,
    CERTIFICATE,
    LINKS,
    PRIVATE,
    Authority,
    certificate_pem,
    certified_name,
    founded,
    issued_by,
    new_private,
    private_pem,
    read_certificate,
    read_private,
    shown,
    signed,
    validity_problems,
)
from cloven.runtime.link.identity import name_problem
from cloven.runtime.link.keys import SIZE
from cloven.runtime.link.staging import remove, staged, writing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

FOLDER = "authority"
DAYS = range(1, 3651)
"""The possible lifetimes of a certificate in days."""


@dataclass(frozen=True)
class Copy:
    """A folder or file that must be copied to a party's host.

    Attributes:
        party: the party.
        path: the local folder or file; a file has the same path inside the party's folder on its host.
    """

    party: str
    path: Path


def new(devices: Sequence[str], out: Path, days: int = 365, *, now: datetime | None = None) -> tuple[Copy, ...]:
    """Create an authority, and a folder for each device and the coordinator.

    Args:
        devices: the names of the devices; see `identity.name_problem`.
        out: a folder that does not exist yet, or is empty.
        days: the lifetime of the certificates, 1 to 3650.
        now: the beginning of that time (with time zone); the current time by default.

    Raises:
        ClovenError: with every problem of names, folder and days, or if the folder cannot be written.
    """
    moment = now or datetime.now(UTC)
    problems = [*naming_problems(devices, [COORDINATOR]), *place_problems([out]), *day_problems(days, moment)]
    if problems:
        raise ClovenError(problems)
    parties = [COORDINATOR, *devices]
    authority = founded(moment)
    files = {
        f"{FOLDER}/{AUTHORITY}": certificate_pem(authority.certificate),
        f"{FOLDER}/{PRIVATE}": private_pem(authority.key),
        **link_files(combinations(parties, 2)),
    }
    for party in parties:
        files |= party_files(party, authority, moment, days)
    place = Path(os.path.realpath(out))
    with writing(out):
        place.parent.mkdir(parents=True, exist_ok=True)
        with staged(place.parent, files) as stage:
            # The rename fails if a non-empty folder has appeared there meanwhile.
            stage.rename(place)
    return tuple(Copy(party, out / party) for party in parties)


def add(keys: Path, devices: Sequence[str], days: int = 365, *, now: datetime | None = None) -> tuple[Copy, ...]:
    """Create folders for more devices, and their link keys in all existing folders.

    Args:
        keys: the folder that `new` created, with all parties' folders in it.
        devices: the names of the new devices.
        days: as for `new`.
        now: as for `new`.

    Returns:
        The new folders, and the new link keys of the other parties.

    Raises:
        ClovenError: with every problem, or if a file cannot be written; then nothing is changed.
    """
    moment = now or datetime.now(UTC)
    authority = opened(keys, moment)
    there = parties_in(keys)
    problems = [
        *naming_problems(devices, there),
        *stray_problems(keys, there),
        *place_problems(keys / device for device in devices if not naming_problems([device], there)),
        *day_problems(days, moment, authority),
    ]
    if problems:
        raise ClovenError(problems)
    files = link_files([*product(there, devices), *combinations(devices, 2)])
    for device in devices:
        files |= party_files(device, authority, moment, days)
    # The new folders come last: when one exists, the other parties' keys for it exist too.
    copies = [Copy(party, keys / party / LINKS / f"{device}.key") for party, device in product(there, devices)]
    copies += [Copy(device, keys / device) for device in devices]
    with writing(keys), staged(keys, files) as stage, ExitStack() as undo:
        for copy in copies:
            (stage / copy.path.relative_to(keys)).rename(copy.path)
            undo.callback(remove, copy.path)
        undo.pop_all()
    return tuple(copies)


def renew(
    keys: Path, devices: Sequence[str] | None = None, days: int = 365, *, now: datetime | None = None
) -> tuple[Copy, ...]:
    """Issue new certificates by the same authority; private keys and link keys stay.

    Args:
        keys: the folder that `new` created.
        devices: the devices whose certificates are renewed, which may include the coordinator; None for all.
        days: as for `new`.
        now: as for `new`.

    Returns:
        The new certificates.

    Raises:
        ClovenError: with every problem, or if a file cannot be written.
    """
    moment = now or datetime.now(UTC)
    authority = opened(keys, moment)
    there = parties_in(keys)
    chosen = list(dict.fromkeys(there if devices is None else devices))
    problems = [
        f"{keys} has no folder for {device!r}; it has folders for {', '.join(there)}"
        for device in chosen
        if device not in there
    ]
    problems += day_problems(days, moment, authority)
    if problems:
        raise ClovenError(problems)
    files = {
        f"{party}/{CERTIFICATE}": certificate_pem(signed(authority, party, public, moment, days))
        for party, public in public_keys(keys, chosen, authority).items()
    }
    with writing(keys), staged(keys, files) as stage:
        for file in files:
            (stage / file).replace(keys / file)
    return tuple(Copy(party, keys / party / CERTIFICATE) for party in chosen)


def naming_problems(devices: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the errors in the names of new devices; ``taken`` are the names of existing ones."""
    if not devices:
        return ["got no device name; expected at least one, such as edge0"]
    problems = []
    seen = {name.lower(): name for name in [FOLDER, *taken]}
    for name in devices:
        if problem := name_problem(name):
            problems.append(problem)
        elif other := seen.get(name.lower()):
            problems.append(
                f"the device name {name!r} is taken (by {other!r}): give each device a different name; names are "
                "not case-sensitive, like host names"
            )
        seen[name.lower()] = name
    return problems


def place_problems(folders: Iterable[Path]) -> list[str]:
    """Return an error for each folder that exists and is not empty."""
    return [
        f"{folder} exists and is not an empty folder, and keys are never overwritten: choose another name, or add "
        "devices to a folder of keys with `cloven keys add`"
        for folder in folders
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))
    ]


def day_problems(days: int, moment: datetime, authority: Authority | None = None) -> list[str]:
    """Return why a lifetime is not possible: certificates must not outlive the authority that signs them."""
    if days not in DAYS:
        return [f"days must be between {DAYS[0]} and {DAYS[-1]}, got {days}"]
    if authority and moment + timedelta(days=days) > authority.certificate.not_valid_after_utc:
        end = shown(authority.certificate.not_valid_after_utc)
        return [
            f"certificates for {days} days would outlive their authority, which expires on {end}: take fewer days, "
            "or create new keys for all devices with `cloven keys new`"
        ]
    return []


def stray_problems(keys: Path, parties: Sequence[str]) -> list[str]:
    """Return an error for each link key of a missing party: a folder was moved, or a command was interrupted."""
    strays: dict[str, Path] = {}
    for party in parties:
        for path in sorted((keys / party / LINKS).glob("*.key")):
            if path.stem not in parties:
                strays[path.stem] = path
    return [
        f"{path} is a link key with {name}, but {keys / name} is missing: copy that folder back, or remove "
        f"{name}.key from all folders in {keys} if there is no such device"
        for name, path in strays.items()
    ]


def parties_in(keys: Path) -> list[str]:
    """Return the parties that have a folder, sorted."""
    return sorted(path.parent.name for path in keys.glob(f"*/{CERTIFICATE}"))


def opened(keys: Path, moment: datetime) -> Authority:
    """Return the authority in a folder, ready for signing.

    Raises:
        ClovenError: if it is missing or not valid, or other users can read its private key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    folder = keys / FOLDER
    if not folder.is_dir():
        raise ClovenError(
            f"{keys} is not a folder of keys: {folder} is missing; name the folder that `cloven keys new` created"
        )
    problems: list[str] = []
    certificate = tried(partial(read_certificate, folder / AUTHORITY), problems)
    key = tried(partial(read_private, folder / PRIVATE), problems)
    if certificate:
        problems += validity_problems(certificate, folder / AUTHORITY, moment)
    fits = certificate and key and key.public_key() == certificate.public_key()
    if certificate and isinstance(key, EllipticCurvePrivateKey) and fits and not problems:
        return Authority(certificate, key)
    if not problems:
        problems = [f"{folder / PRIVATE} is not the private key of {folder / AUTHORITY}; copy the folder back"]
    raise ClovenError(problems)


def public_keys(keys: Path, parties: Sequence[str], authority: Authority) -> dict[str, CertificatePublicKeyTypes]:
    """Return the parties' public keys, from certificates that the authority has signed for them.

    Raises:
        ClovenError: with every certificate that is not for that party, or not by this authority.
    """
    problems: list[str] = []
    found = {}
    for party in parties:
        path = keys / party / CERTIFICATE
        certificate = tried(partial(read_certificate, path), problems)
        if certificate is None:
            continue
        if certified_name(certificate) != party or not issued_by(certificate, authority.certificate):
            problems.append(f"{path} is not a certificate for {party} by {keys / FOLDER}: copy the right one back")
        found[party] = certificate.public_key()
    if problems:
        raise ClovenError(problems)
    return found


def party_files(party: str, authority: Authority, moment: datetime, days: int) -> dict[str, bytes]:
    """Return the files of a party's folder except for its link keys: path to content."""
    private = new_private()
    certificate = signed(authority, party, private.public_key(), moment, days)
    return {
        f"{party}/{AUTHORITY}": certificate_pem(authority.certificate),
        f"{party}/{CERTIFICATE}": certificate_pem(certificate),
        f"{party}/{PRIVATE}": private_pem(private),
    }


def link_files(pairs: Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """Return a new link key for each pair of parties, in both folders: path to content."""
    files = {}
    for one, other in pairs:
        text = secrets.token_hex(SIZE).encode() + b"\n"
        files[f"{one}/{LINKS}/{other}.key"] = files[f"{other}/{LINKS}/{one}.key"] = text
    return files
