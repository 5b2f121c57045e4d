"""Cost profiles of devices and links, as documents that people read and edit.

Every table says where its numbers come from: ``measured`` on the device or link itself, taken from a named
``source``, or ``assumed``. A missing table is unknown, and never taken as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from cloven.documents import Document, read_toml_document
from cloven.errors import ClovenError, tried
from cloven.files import toml_value
from cloven.partition.protection import NAMES

Origin = Literal["measured", "source", "assumed"]

SMALLEST, LARGEST = 1e-30, 1e30
"""The range of numbers other than 0 in a profile; all that is computed from them is finite."""


def _in_range(value: float) -> float:
    if value and not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{value:g} is out of range; expected {SMALLEST:g} to {LARGEST:g}")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_in_range)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_in_range)]
Count = Annotated[int, Field(ge=0), AfterValidator(_in_range)]


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
        if self.operators and (self.macs_per_second is not None or self.operator is not None):
            raise ValueError("operators is given with macs_per_second or operator; give either the table or these")
        return self


class MessageCost(Sourced):
    """The seconds that an end needs for sending and for receiving one message, and for each byte of it.

    They contain the time in which its threads wake each other up.
    """

    send: NotNegative
    receive: NotNegative
    send_byte: NotNegative
    receive_byte: NotNegative


class CipherTime(Sourced):
    """The seconds for encrypting or decrypting one message, and for each byte of it."""

    message: NotNegative
    byte: NotNegative


class MemorySize(Sourced):
    """The memory in bytes: of a worker process without a model, and available on the device.

    ``worker`` is that of a worker which takes part in a run, and ``starting`` (default: the same) that before it
    loads its models. A runtime holds ``weights`` bytes for each byte of weights, ``operator`` for each operator and
    ``segment`` for each ONNX model. While it loads one, it needs ``loading`` times the bytes of
    `cloven.cost.loading` in addition. A link to another device takes ``link``, and a message ``message`` for each
    of its bytes. A device with ``paging`` also runs what does not fit: it takes these seconds for each byte of
    weights beyond ``available``, for each image.
    """

    worker: Count
    starting: Count | None = None
    weights: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    operator: Count = 0
    segment: Count = 0
    loading: NotNegative = 0.0
    link: Count = 0
    message: NotNegative = 0.0
    available: Count | None = None
    paging: NotNegative | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.paging is not None and self.available is None:
            raise ValueError("paging is given, but available is not; give both")
        if self.starting is not None and self.starting > self.worker:
            raise ValueError(
                f"starting is {self.starting}, more than worker, {self.worker}; expected as much or less"
            )
        if self.available is not None and self.available < self.worker:
            raise ValueError(
                f"available is {self.available}, less than worker, {self.worker}; expected as much or more"
            )
        return self


class Power(Sourced):
    """The power in watts of an idle device, and of one that computes."""

    idle: NotNegative
    busy: NotNegative

    @model_validator(mode="after")
    def _busy_takes_more(self) -> Self:
        if self.busy < self.idle:
            raise ValueError(f"busy is {self.busy:g}, less than idle, {self.idle:g}; expected as much or more")
        return self


def _known_cipher(name: str) -> str:
    if name not in NAMES or name == "none":
        raise ValueError(f"there is no cipher {name!r}; expected one of {', '.join(NAMES[1:])}")
    return name


class DeviceProfile(Document):
    """The costs of one kind of device."""

    format: Literal[1] = 1
    name: str
    compute: ComputeCost
    messages: MessageCost | None = None
    ciphers: dict[Annotated[str, AfterValidator(_known_cipher)], CipherTime] = Field(default_factory=dict)
    memory: MemorySize | None = None
    power: Power | None = None


def scaled(profile: DeviceProfile, speed: float) -> DeviceProfile:
    """Return the profile of a device that computes at a share of the speed; messages and ciphers take as long."""
    compute = profile.compute
    rows = tuple(row.model_copy(update={"seconds": row.seconds / speed}) for row in compute.operators)
    rate = None if compute.macs_per_second is None else speed * compute.macs_per_second
    fixed = None if compute.operator is None else compute.operator / speed
    slower = compute.model_copy(
        update={
            "segment": compute.segment / speed,
            "operator": fixed,
            "macs_per_second": rate,
            "operators": rows,
        }
    )
    return profile.model_copy(update={"name": f"{profile.name}, speed {speed:g}", "compute": slower})


class Transmission(Sourced):
    """The bits per second of a link, its delay in seconds, and the seconds that each message occupies it.

    ``loss`` is the probability with which a packet is lost, at most 0.5. Estimates do not count the time for
    sending it again; `cloven lab` emulates it.
    """

    bandwidth: Positive
    delay: NotNegative
    message: NotNegative = 0.0
    loss: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0


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
    what, path = KINDS[kind].removesuffix("s"), folder / name
    if not name.endswith(".toml"):
        if name in shipped(kind):
            return read_toml_document(kind, Path(str(SHIPPED / KINDS[kind] / f"{name}.toml")))
        known = ", ".join(shipped(kind))
        raise ClovenError(
            f"there is no {what} profile {name!r}; expected one of {known}, or the name of a .toml file"
        )
    try:
        return read_toml_document(kind, path)
    except ClovenError as error:
        other: type[Document] = LinkProfile if kind is DeviceProfile else DeviceProfile
        if tried(lambda: read_toml_document(other, path), []) is None:
            raise
        found = KINDS[other].removesuffix("s")
        raise ClovenError(f"{path} is the profile of a {found}; expected that of a {what}") from error


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
