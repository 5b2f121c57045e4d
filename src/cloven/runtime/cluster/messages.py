"""What parties tell each other besides frames: JSON objects, each of a known form and within bounds.

Whatever a peer sends becomes one of these models or a `LinkError`. Text is kept short, and made safe to print.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from cloven.errors import ClovenError, one_line
from cloven.files import TOML_BYTES, parse_json
from cloven.partition.protection import COORDINATOR
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.session import LARGEST_INPUT, LARGEST_PAYLOAD

VERSION = 2
"""Of the messages between parties; a party talks only to its own."""

USUAL_BYTES = 2**20
"""How long a message may be that is neither a description nor a report."""

KEPT = 256
"""Of how many images a worker keeps the times for its report."""


def _octets(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) > 512:
        raise ValueError("expected at most 512 hexadecimal digits")
    return bytes.fromhex(text)


def _known(party: str, info: ValidationInfo) -> str:
    if info.context is not None and party not in info.context:
        raise ValueError("this party is not in the plan")
    return party


Text = Annotated[str, AfterValidator(one_line)]
Party = Annotated[str, AfterValidator(one_line), AfterValidator(_known)]
"""The name of a party of the plan, where the reader knows the plan."""
Octets = Annotated[bytes, BeforeValidator(_octets)]
Number = Annotated[int, Field(ge=0, le=LARGEST_INPUT)]
Size = Annotated[int, Field(ge=1, le=LARGEST_PAYLOAD)]
Moment = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
"""Seconds since 1970, by the sender's clock."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Crossing = Annotated[tuple[Party, Number, Moment], Field(strict=False)]
"""A message: the other party, its ordinal, and when it was sent or came. JSON has no tuples."""


class Said(BaseModel):
    """A message of a peer."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Hello(Said):
    """The first message of a dialer: which run, who it is, whom it means; a session's id, or its half of a key."""

    cloven: int
    run: Text
    dialer: Text = Field(alias="from")
    other: Text = Field(alias="to")
    protection: Text
    session: Octets = b""
    noise: Octets = b""


class Answer(Said):
    """The rest of a handshake, from either side: the other half of a key, a proof, or why not."""

    cloven: int
    noise: Octets = b""
    proof: Octets = b""
    refused: Text | None = None
    again: bool = False


class Description(Said):
    """What a worker holds."""

    cloven: int
    device: Text
    plan: Text
    plan_text: str = Field(max_length=TOML_BYTES)
    model: Text
    devices: list[Text] = Field(min_length=1)
    image: list[Size] = Field(min_length=3, max_length=3)
    output: list[Size] = Field(min_length=1, max_length=8)
    largest: int = Field(ge=0, le=LARGEST_PAYLOAD)
    parties: list[Text]
    source: bool
    sink: bool
    process: Number
    run: Text | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source or self.sink) and COORDINATOR not in self.parties:
            raise ValueError("the source and the sink must have a link with the coordinator")
        if prod(self.output) > LARGEST_PAYLOAD:
            raise ValueError("the output is too large")
        return self


class Terms(Said):
    """What a coordinator asks of a worker for a run.

    ``plan`` is the hash of the manifest, ``addresses`` are those of the devices, ``window`` the most images in
    flight, ``deadline`` the seconds after which an image is given up.
    """

    run: Text
    plan: Text
    addresses: dict[Text, Text]
    window: int = Field(ge=-(2**31), le=2**31)
    deadline: float = Field(gt=0, le=1e9, allow_inf_nan=False)


class Join(Said):
    """The first message of a coordinator."""

    cloven: int
    join: Terms


class Question(Said):
    """What a coordinator says every so often.

    ``oldest`` is the first image that may be in flight, ``late`` are those whose state is asked for, ``drop`` those
    that nobody waits for, ``lost`` the devices that have left the run.
    """

    ping: Moment
    oldest: Number
    late: list[Number] = Field(default=[], max_length=1024)
    drop: list[Number] = []
    lost: list[Text] = []
    report: bool = False


class Status(Said):
    """Which links of a worker are down, and its clock."""

    down: dict[Party, Text]
    time: Moment


class Doing(Said):
    """What a worker does about an image; see `cloven.runtime.cluster.blame.State`."""

    doing: Literal["waits", "computes", "sends", "done"]
    parties: list[Party]


class Failed(Said):
    """An image that a worker has given up, and whose message was the reason, if any's."""

    input: Number
    party: Party | None = Field(alias="from")
    reason: Text


class Passage(Said):
    """The times of one image on a device."""

    input: Number
    seconds: list[Seconds]
    sent: list[Crossing]
    came: list[Crossing]


class Report(Said):
    """What a worker recorded in a run; see `cloven.runtime.cluster.joined.Joined.report`."""

    steps: list[Number]
    images: list[Passage] = Field(max_length=KEPT)
    refused: dict[Party, dict[Text, Number]]
    bytes: dict[Party, Number]
    clock: dict[Party, dict[Literal["sealing", "opening"], Seconds]]
    finished: Number

    @model_validator(mode="after")
    def _each_step_has_a_time(self) -> Self:
        if any(len(image.seconds) != len(self.steps) for image in self.images):
            raise ValueError("an image needs one time for each step")
        return self


class Told(Said):
    """What a worker tells its coordinator."""

    cloven: int | None = None
    refused: Text | None = None
    again: bool = False
    stopping: bool = False
    joined: bool | None = None
    down: dict[Party, Text] = {}
    status: Status | None = None
    ping: Moment | None = None
    states: dict[Annotated[int, Field(strict=False, ge=0, le=LARGEST_INPUT)], Doing] | None = None
    failed: Failed | None = None
    report: Report | None = None


Kind = TypeVar("Kind", bound=Said)


def read(
    kind: type[Kind],
    message: bytes | None,
    party: str,
    parties: Collection[str] | None = None,
    most: int = USUAL_BYTES,
) -> Kind:
    """Return a message of a peer.

    Args:
        kind: which message is due.
        message: the bytes that came; None where nothing came.
        party: who sent it, for error messages.
        parties: the parties of the plan; None where names are not checked.
        most: how many bytes it may have.

    Raises:
        LinkError: if the message has another form or version, is too long, or a value is out of bounds.
    """
    if message is not None and len(message) > most:
        raise LinkError(f"{party} sent a message of {len(message)} bytes; expected at most {most}")
    try:
        found = parse_json(message or b"", "the message")
    except ClovenError as error:
        raise LinkError(f"{party} does not speak cloven's protocol: {one_line(str(error))}") from error
    version = found.get("cloven", VERSION)
    if version != VERSION:
        shown = version if isinstance(version, int) and abs(version) < 10**6 else "unknown"
        raise LinkError(
            f"{party} speaks version {shown} of the protocol, this cloven {VERSION}: install the same version on "
            "both"
        )
    try:
        return kind.model_validate(found, context=parties)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise LinkError(f"{party} does not speak cloven's protocol: {one_line(wrong)}") from error
