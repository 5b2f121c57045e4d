"""The cluster: devices and links with their addresses, cost profiles and trust.

In a cluster file (TOML), everything except the names of the devices is optional::

    keys = "keys/coordinator"          # a folder written by `cloven keys new`; without it, no mTLS or protected
    links insecure = false                   # true: no mTLS although there are keys

    [devices]
    edge0 = "192.168.1.10:7001"                                          # only an address
    edge1 = { address = "192.168.1.11:7001", profile = "pi4.toml", trusted = false }

    [links]
    default = { profile = "ethernet-100" }
    edge0-edge1 = { profile = "wifi", exposed = false, medium = "wifi" }
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cloven.cost.profile import SHIPPED, DeviceProfile, LinkProfile, Profile, read_profile
from cloven.documents import Document, read_toml_document
from cloven.errors import ClovenError, tried
from cloven.partition.division import wrong_names
from cloven.partition.protection import COORDINATOR, wrong_links
from cloven.tables import html_table, text_table

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:\s/]+):[0-9]{1,5}")

EXPECTED = 'expected [devices] with a line such as edge0 = "192.168.1.10:7001"'

DEFAULT = "default"
"""The entry of ``[links]`` that applies to all links without an entry."""


def _with_address(entry: Any) -> Any:
    """Return the long form of a device entry that is only an address."""
    return {"address": entry} if isinstance(entry, str) else entry


class DeviceEntry(Document):
    """A device in a cluster file; ``trusted`` says whether the owner of the images trusts it."""

    address: str | None = None
    profile: str | None = None
    trusted: bool = True


class LinkEntry(Document):
    """A link in a cluster file.

    ``exposed`` says whether others can listen to it. Links of one ``medium``, such as a radio channel, send one
    after another.
    """

    profile: str | None = None
    exposed: bool = True
    medium: str | None = None


class ClusterFile(Document):
    """The content of a cluster file. ``keys`` is relative to the file's own folder."""

    keys: str | None = None
    insecure: bool = False
    devices: dict[str, Annotated[DeviceEntry, BeforeValidator(_with_address)]] = Field(min_length=1)
    links: dict[str, LinkEntry] = Field(default_factory=dict)


@dataclass(frozen=True)
class ClusterDevice:
    """A device of a cluster; what is None is unknown."""

    profile: DeviceProfile | None = None
    trusted: bool = True
    address: str | None = None


@dataclass(frozen=True)
class ClusterLink:
    """A link of a cluster, in both directions; a profile of None is unknown."""

    profile: LinkProfile | None = None
    exposed: bool = True
    medium: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Cluster:
    """Devices by their names, and the links between them by ``A-B``; ``default`` is every other link.

    The coordinator, which sends the images and receives the outputs, is the party ``coordinator``.
    """

    devices: Mapping[str, ClusterDevice]
    links: Mapping[str, ClusterLink] = field(default_factory=dict)
    default: ClusterLink = ClusterLink()
    keys: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ClovenError(problems)

    @classmethod
    def load(cls, path: str | Path, workers: Sequence[str] = ()) -> Cluster:
        """Read a cluster file, and the profiles that it names.

        Args:
            path: the file.
            workers: devices that must have an address.

        Raises:
            ClovenError: with all errors of the file and its profiles.
        """
        file = Path(path)
        try:
            written = read_toml_document(ClusterFile, file)
        except ClovenError as error:
            unclear = (": devices is ", "expected a table")
            hint = [EXPECTED] if any(words in problem for problem in error.problems for words in unclear) else []
            raise ClovenError([*error.problems, *hint]) from error
        problems = [
            f'{file}: the address of {name} is missing: add {name} = "HOST:PORT" to [devices]'
            for name in workers
            if name not in written.devices or written.devices[name].address is None
        ]

        addresses = [device.address for device in written.devices.values() if device.address is not None]
        twice = dict.fromkeys(address for address in addresses if addresses.count(address) > 1)
        problems += [f"{file}: two devices have the address {address}" for address in twice]

        def profile(kind: type[Profile], name: str | None) -> Profile | None:
            return None if name is None else tried(lambda: read_profile(kind, name, file.parent), problems)

        devices = {
            name: ClusterDevice(profile(DeviceProfile, entry.profile), entry.trusted, entry.address)
            for name, entry in written.devices.items()
        }
        links = {
            name: ClusterLink(profile(LinkProfile, entry.profile), entry.exposed, entry.medium)
            for name, entry in written.links.items()
        }
        keys = None if written.keys is None else str(file.parent / written.keys)
        try:
            made = cls(devices, links, links.pop(DEFAULT, ClusterLink()), keys, written.insecure)
        except ClovenError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
            raise ClovenError(list(dict.fromkeys(problems))) from error
        if problems:
            raise ClovenError(list(dict.fromkeys(problems)))
        return made

    @classmethod
    def named(cls, name: str) -> Cluster:
        """Read a cluster file, or one that comes with cloven, by its name without ``.toml``.

        Raises:
            ClovenError: as `load`.
        """
        known = SHIPPED / "clusters" / f"{name}.toml"
        return cls.load(str(known) if known.is_file() else name)

    def _problems(self) -> Iterator[str]:
        if not self.devices:
            yield "got no devices; expected at least one"
        for name, device in self.devices.items():
            address = device.address
            if address is not None and not is_address(address):
                yield f'{name} = {address!r} is not an address; expected HOST:PORT such as "192.168.1.10:7001"'
        yield from wrong_names([name for name in self.devices if name != COORDINATOR])
        yield from wrong_links("links", self.links, self.parties)

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """The coordinator and the devices."""
        return tuple(dict.fromkeys((COORDINATOR, *self.devices)))

    def link(self, one: str, other: str) -> ClusterLink:
        """Return the link between two parties, in whichever order they are given."""
        return self.links.get(f"{one}-{other}") or self.links.get(f"{other}-{one}") or self.default

    def missing(self, devices: Sequence[str]) -> list[str]:
        """Return an error for each device of a plan that is not in the cluster."""
        known = ", ".join(self.devices)
        return [f"the cluster has no device {name}; it has {known}" for name in devices if name not in self.devices]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[str | None, ...]]]:
        rows: list[tuple[str | None, ...]] = []
        for name, device in self.devices.items():
            profile = device.profile.name if device.profile is not None else None
            rows.append((name, profile, "yes" if device.trusted else "no", device.address))
        for name, link in {**self.links, "other links": self.default}.items():
            profile = link.profile.name if link.profile is not None else None
            rows.append((name, profile, "no" if link.exposed else "yes", None))
        return f"Cluster of {len(self.devices)} devices", ("device or link", "profile", "trusted", "address"), rows


def is_address(text: str) -> bool:
    """Return whether a text is ``HOST:PORT``."""
    return ADDRESS.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 2**16
