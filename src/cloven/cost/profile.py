"""Cost profiles of devices and links, as documents that people read and edit.

Every table says where its numbers come from: ``measured`` on the device or link itself, taken from a named
``source``, or ``assumed``. A missing table is unknown, and never taken as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from cloven.documents import Document, read_toml_document
from cloven.errors import ClovenError
from cloven.files import toml_value

Origin = Literal["measured", "source", "assumed"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Sourced(Document):
    """A table of numbers with their origin; ``note`` says how they were measured, or names the source."""

    origin: Origin
    note: str = ""

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        if self.origin == "source" and not self.note:
            raise ValueError("origin is 'source', but note is empty; name the source in note")
        return self


class OperatorTime(Document):
    """The seconds of one operator on one image.

    ``family`` groups operators of one kind and geometry, see `cloven.cost.operators.family`; ``macs`` are its
    multiply-accumulates, ``bytes`` the bytes that it reads and writes, with its weights.
    """

    family: str
    macs: Count
    bytes: Count
    seconds: NotNegative


class ComputeCost(Sourced):
    """The speed of a device: a table of operators, or only the same speed for all of them.

    ``segment`` are the seconds that it takes to run one ONNX model besides its operators. Without a table, an
    operator takes ``operator`` seconds and the time of its multiply-accumulates, where the one that is not given
    takes no time.
    """

    threads: Annotated[int, Field(ge=1)] = 1
    segment: NotNegative = 0.0
    operator: NotNegative | None = None
    macs_per_second: Positive | None = None
    operators: tuple[OperatorTime, ...] = ()

    @model_validator(mode="after")
    def _has_a_speed(self) -> Self:
        if self.macs_per_second is None and self.operator is None and not self.operators:
            raise ValueError("none of macs_per_second, operator and operators is given; give one of them")
        return self


class MessageCost(Sourced):
    """The CPU seconds for sending and for receiving one message, and for each byte of it."""

    send: NotNegative
    receive: NotNegative
    send_byte: NotNegative
    receive_byte: NotNegative


class CipherTime(Sourced):
    """The seconds for encrypting or decrypting one message, and for each byte of it."""

    message: NotNegative
    byte: NotNegative


class MemorySize(Sourced):
    """The memory in bytes: of the worker process before it loads a part, and available on the device.

    A device with ``paging`` also runs what does not fit: it takes these seconds for each byte of weights beyond
    ``available``, for each image.
    """

    worker: Count
    available: Count | None = None
    paging: NotNegative | None = None

    @model_validator(mode="after")
    def _paging_has_a_limit(self) -> Self:
        if self.paging is not None and self.available is None:
            raise ValueError("paging is given, but available is not; give both")
        return self


class Power(Sourced):
    """The power in watts of an idle device, and of one that computes."""

    idle: NotNegative
    busy: NotNegative


class DeviceProfile(Document):
    """The costs of one kind of device."""

    format: Literal[1] = 1
    name: str
    compute: ComputeCost
    messages: MessageCost | None = None
    ciphers: dict[str, CipherTime] = Field(default_factory=dict)
    memory: MemorySize | None = None
    power: Power | None = None


class Transmission(Sourced):
    """The bits per second of a link, its delay in seconds, and the seconds that each message occupies it."""

    bandwidth: Positive
    delay: NotNegative
    message: NotNegative = 0.0


class TransmissionEnergy(Sourced):
    """The joules that both ends spend for each transmitted byte."""

    byte: NotNegative


class LinkProfile(Document):
    """The costs of one kind of link."""

    format: Literal[1] = 1
    name: str
    transmission: Transmission
    energy: TransmissionEnergy | None = None


Profile = TypeVar("Profile", DeviceProfile, LinkProfile)

KINDS: Mapping[type[Document], str] = {DeviceProfile: "devices", LinkProfile: "links"}
SHIPPED = files("cloven.cost") / "shipped"


def shipped(kind: type[Document]) -> list[str]:
    """Return the names of the device or link profiles that come with cloven."""
    return sorted(entry.name.removesuffix(".toml") for entry in (SHIPPED / KINDS[kind]).iterdir())


def read_profile(kind: type[Profile], name: str, folder: Path) -> Profile:
    """Return a profile from a file, relative to a folder, or a shipped one by its name.

    Raises:
        ClovenError: if there is no such profile, or with all errors of the file.
    """
    if not name.endswith(".toml"):
        if name not in shipped(kind):
            known = ", ".join(shipped(kind))
            raise ClovenError(
                f"there is no profile {name!r} of {KINDS[kind]}; expected one of {known}, or a .toml file"
            )
        return read_toml_document(kind, Path(str(SHIPPED / KINDS[kind] / f"{name}.toml")))
    return read_toml_document(kind, folder / name)


def profile_toml(profile: DeviceProfile | LinkProfile) -> str:
    """Return a profile as the text of a TOML file."""
    head: list[str] = []
    tables: list[str] = []

    def write(name: str, entries: Mapping[str, Any], lines: list[str]) -> None:
        for key, value in entries.items():
            if isinstance(value, dict):
                inner = f"{name}.{toml_value(key)}" if name else key
                if any(not isinstance(entry, dict) for entry in value.values()):
                    tables.extend(["", f"[{inner}]"])
                write(inner, value, tables)
            elif isinstance(value, list):
                rows = (", ".join(f"{k} = {toml_value(v)}" for k, v in row.items()) for row in value)
                lines += [f"{key} = [", *(f"  {{ {row} }}," for row in rows), "]"]
            else:
                lines.append(f"{key} = {toml_value(value)}")

    write("", profile.model_dump(mode="json", exclude_none=True), head)
    return "\n".join([*head, *tables]) + "\n"
