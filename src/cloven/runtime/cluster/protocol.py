"""The messages between a coordinator and its workers, besides frames: JSON objects of limited size.

Each has a model. `PeerMessage.encode` writes them; `read` validates a peer's message, or raises a `LinkError`. Text
from a peer is shortened and made safe to print.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from math import prod
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from cloven.cost.cluster import is_address
from cloven.documents import Document
from cloven.errors import ClovenError, one_line
from cloven.files import TOML_BYTES, parse_json
from cloven.partition.protection import COORDINATOR
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.session import LARGEST_INPUT, LARGEST_PAYLOAD

VERSION = 3
"""The version of the protocol; parties of different versions refuse each other."""

USUAL_BYTES = 2**20
"""The maximum size in bytes of a message that is neither a description nor a report."""

LARGEST_EXCHANGE = 2**22
"""The maximum number of bytes that are exchanged at a time to measure a link."""

MANIFEST_BYTES = 2**24
"""The maximum size in bytes of a manifest that a worker accepts."""

MOST_BUNDLES = 8
"""The maximum number of bundles that a worker can be started with."""

KEPT = 256
"""The number of images whose times a worker keeps for its report."""


def _octets(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or len(text) > 512:
        raise ValueError("expected at most 512 hexadecimal digits")
    return bytes.fromhex(text)


def _known(party: str, info: ValidationInfo) -> str:
    if info.context is not None and party not in info.context:
        raise ValueError("this party is not in the plan")
    return party


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("expected HOST:PORT")
    return text


Text = Annotated[str, AfterValidator(one_line)]
Address = Annotated[str, AfterValidator(one_line), AfterValidator(_address)]
Party = Annotated[str, AfterValidator(one_line), AfterValidator(_known)]
"""The name of a party; checked against the plan's parties if `read` is given them."""
Octets = Annotated[bytes, BeforeValidator(_octets), PlainSerializer(bytes.hex)]
"""Bytes, as hexadecimal digits in JSON."""
Exchanged = Annotated[int, Field(ge=0, le=LARGEST_EXCHANGE)]
Number = Annotated[int, Field(ge=0, le=LARGEST_INPUT)]
Size = Annotated[int, Field(ge=1, le=LARGEST_PAYLOAD)]
Moment = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
"""Seconds since 1970, by the sender's clock."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Crossing = Annotated[tuple[Party, Number, Moment], Field(strict=False)]
"""A frame of an image: the other party, the ordinal, and the time of sending or receiving; an array in JSON."""


Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""The SHA-256 of a manifest, which identifies a bundle."""


class PeerMessage(Document):
    """A message between two parties."""

    model_config = ConfigDict(populate_by_name=True)

    def encode(self) -> bytes:
        """Return the message as JSON, with only the fields that were set."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_unset=True)).encode()


class Hello(PeerMessage):
    """The first message of a dialer.

    It names the run, both parties and the protection. It also contains the dialer's half of the key exchange or,
    without a cipher, the session's id.
    """

    cloven: int
    run: Text
    dialer: Text = Field(validation_alias="from", serialization_alias="from")
    other: Text = Field(validation_alias="to", serialization_alias="to")
    protection: Text
    session: Octets = b""
    noise: Octets = b""


class HandshakeReply(PeerMessage):
    """A later message of a handshake: the other half of the key exchange, a proof, or a refusal."""

    cloven: int
    noise: Octets = b""
    proof: Octets = b""
    refused: Text | None = None
    again: bool = False


class EchoRequest(PeerMessage):
    """A dialer's request to measure a link: it sends ``up`` bytes after it, and asks for ``down`` bytes."""

    cloven: int
    dialer: Text = Field(validation_alias="from", serialization_alias="from")
    other: Text = Field(validation_alias="to", serialization_alias="to")
    up: Exchanged
    down: Exchanged


class EchoReply(PeerMessage):
    """The reply to such a request, with the seconds for which the process has used the processor, or a refusal."""

    cloven: int
    processor: Seconds = 0.0
    refused: Text | None = None
    again: bool = False


class MeasureRequest(PeerMessage):
    """A coordinator's request that a worker measures its link with a party at an address."""

    cloven: int
    party: Text
    address: Address


class TransferTimes(PeerMessage):
    """The median seconds of sending a number of bytes and waiting for a reply, and of a quarter of the bytes."""

    bytes: int = Field(ge=4, le=LARGEST_EXCHANGE)
    seconds: Seconds
    quarter_seconds: Seconds


class LinkMeasurement(PeerMessage):
    """The measured times of a link.

    Attributes:
        round_trip: the median seconds from a small message to its reply.
        processor: the mean seconds of a round trip for which both ends used their processors.
        payload: the bytes of a message that fills several packets, and ``loaded_trip`` its round trip.
        forth, back: the transfers in each direction.
    """

    round_trip: Seconds
    processor: Seconds
    payload: Exchanged
    loaded_trip: Seconds
    forth: TransferTimes
    back: TransferTimes


class MeasureReply(PeerMessage):
    """A worker's reply to the request to measure a link: the times, or why there are none."""

    cloven: int
    refused: Text | None = None
    link: LinkMeasurement | None = None


class UpgradeOffer(PeerMessage):
    """A coordinator's offer of a bundle: the hash and the size of its manifest, which follows in chunks."""

    cloven: int
    plan: Hash
    bytes: int = Field(ge=1, le=MANIFEST_BYTES)


class UpgradeReply(PeerMessage):
    """A worker's reply to an offer, and to what follows it: what to send next, or why it takes nothing.

    Attributes:
        refused: the reason, if the worker does not take the bundle.
        manifest: send the manifest.
        folders: send the files of these folders, in the order of the manifest.
        ready: the bundle is loaded.
        needless: the worker has no part in this plan.
    """

    cloven: int
    refused: Text | None = None
    manifest: bool = False
    folders: list[Text] | None = Field(default=None, max_length=1024)
    ready: bool = False
    needless: bool = False


class ActivateRequest(PeerMessage):
    """A coordinator's request to use a loaded bundle for new runs; without a hash, it only asks which is used."""

    cloven: int
    plan: Hash | None = None


class ActivateReply(PeerMessage):
    """The hashes of the bundle that a worker uses now, and of the one that it used before; or a refusal."""

    cloven: int
    refused: Text | None = None
    current: Hash | None = None
    previous: Hash | None = None


class DescribeRequest(PeerMessage):
    """A request to describe a device's part of a plan, by the plan's hash; default: the worker's current part.

    ``tasks`` requests the tasks of all parts instead.
    """

    cloven: int
    plan: Text | None = None
    device: Text | None = None
    tasks: bool = False


class WorkerDescription(PeerMessage):
    """The part of a bundle that a worker has loaded, and the run that it takes part in.

    ``tasks`` is a `TaskGraph` as JSON, if it was requested and all parts are loaded; ``device`` is then the name of
    the worker. ``previous`` is the hash of the bundle that an upgrade replaced, if any, and ``others`` are those of
    further bundles that the worker was started with.
    """

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
    tasks: str | None = Field(default=None, max_length=TOML_BYTES)
    previous: Hash | None = None
    others: list[Hash] = Field(default=[], max_length=MOST_BUNDLES - 1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source or self.sink) and COORDINATOR not in self.parties:
            raise ValueError("the source and the sink must have a link with the coordinator")
        if prod(self.output) > LARGEST_PAYLOAD:
            raise ValueError("the output is too large")
        return self


class RunTerms(PeerMessage):
    """The settings of a run.

    ``plan`` is the hash of the manifest, ``addresses`` are those of the devices, ``window`` is the maximum number
    of images in flight, ``batch`` that of images that a worker computes together, and ``deadline`` is the seconds
    after which an image fails. ``names`` gives the worker that takes the place of a device, for each device that
    has another name than its worker. ``beside`` lists the other runs of the same coordinator, which the worker may
    take part in at the same time. With ``tasks``, the worker
    computes tasks of all parts instead of one part: the number of an image, modulo the number of tasks, is that of
    the task.
    """

    run: Text
    plan: Text
    addresses: dict[Text, Address]
    names: dict[Text, Text] = Field(default={})
    beside: list[Text] = Field(default=[], max_length=16)
    tasks: bool = False
    window: int = Field(ge=-(2**31), le=2**31)
    batch: int = Field(default=1, ge=1, le=256)
    deadline: float = Field(gt=0, le=1e9, allow_inf_nan=False)


class JoinRequest(PeerMessage):
    """The first message of a coordinator: it asks the worker to join a run."""

    cloven: int
    join: RunTerms


class StatusRequest(PeerMessage):
    """The message that a coordinator sends a few times a second.

    ``oldest`` is the lowest number that may be in flight. ``late`` lists the images whose state is requested,
    ``drop`` those that are no longer awaited, and ``lost`` the devices that have left the run.
    """

    ping: Moment
    oldest: Number
    late: list[Number] = Field(default=[], max_length=1024)
    drop: list[Number] = Field(default=[])
    lost: list[Text] = Field(default=[])
    report: bool = False


class WorkerStatus(PeerMessage):
    """The links of a worker that are down, with the reasons, and the time by its clock.

    ``plan`` is the hash of the bundle that it uses for new runs.
    """

    down: dict[Party, Text]
    time: Moment
    plan: Hash | None = None


Activity = Literal["waits", "computes", "sends", "done"]


class ImageState(PeerMessage):
    """The state of an image on a worker: its activity, and the parties that it waits for.

    An image that waits for no party has just received its last input, and is computed next.
    """

    doing: Activity
    parties: list[Party]


class ImageFailure(PeerMessage):
    """An image that failed on a worker; ``party`` is set if a message of that party was the cause."""

    input: Number
    party: Party | None = Field(validation_alias="from", serialization_alias="from")
    reason: Text


class ImageTimes(PeerMessage):
    """The times of one image on a device."""

    input: Number
    seconds: list[Seconds]
    sent: list[Crossing]
    came: list[Crossing]


class WorkerReport(PeerMessage):
    """The measurements of a party in a run.

    Attributes:
        steps: the program's steps that it runs; none if it computes tasks, each of which has one time.
        images: the times of the last images.
        refused: the numbers of refused frames and handshakes, by party and reason.
        bytes: payload bytes sent, by party.
        clock: seconds spent on sealing and opening frames, by party.
        finished: the number of images that it finished.
        processor: the seconds for which its process has used the processor so far; None for a coordinator.
        memory: the most bytes of memory that its process has used so far; None if the system does not report it.
    """

    steps: list[Number]
    images: list[ImageTimes] = Field(max_length=KEPT)
    refused: dict[Party, dict[Text, Number]]
    bytes: dict[Party, Number]
    clock: dict[Party, dict[Literal["sealing", "opening"], Seconds]]
    finished: Number
    processor: Seconds | None = None
    memory: Number | None = None

    @model_validator(mode="after")
    def _each_step_has_a_time(self) -> Self:
        expected = len(self.steps) or len(self.images[0].seconds if self.images else ())
        if any(len(image.seconds) != expected for image in self.images):
            raise ValueError("an image needs one time for each step")
        return self


class WorkerMessage(PeerMessage):
    """A message of a worker to its coordinator; fields that do not apply are not set."""

    cloven: int | None = None
    refused: Text | None = None
    again: bool = False
    stopping: bool = False
    joined: bool | None = None
    down: dict[Party, Text] = Field(default={})
    status: WorkerStatus | None = None
    ping: Moment | None = None
    states: dict[Annotated[int, Field(strict=False, ge=0, le=LARGEST_INPUT)], ImageState] | None = None
    failed: ImageFailure | None = None
    report: WorkerReport | None = None


Kind = TypeVar("Kind", bound=PeerMessage)


def read(
    kind: type[Kind],
    message: bytes | None,
    party: str,
    parties: Collection[str] | None = None,
    most: int = USUAL_BYTES,
) -> Kind:
    """Return the validated message of a peer.

    Args:
        kind: the model of the expected message.
        message: the bytes received; None if the stream ended.
        party: the sender, for error messages.
        parties: the parties of the plan; None if names are not checked.
        most: the maximum size in bytes.

    Raises:
        LinkError: if the message is malformed or too long, has another version, or a value is out of bounds.
    """
    if message is not None and len(message) > most:
        raise LinkError(f"{party} sent a message of {len(message)} bytes; expected at most {most}")
    try:
        found = parse_json(message or b"", "the message")
    except ClovenError as error:
        raise LinkError(f"malformed message from {party}: {one_line(str(error))}") from error
    version = found.get("cloven", VERSION)
    if version != VERSION:
        shown = version if isinstance(version, int) and abs(version) < 10**6 else "unknown"
        raise LinkError(
            f"{party} uses version {shown} of the protocol; expected version {VERSION}: install the same version "
            "of cloven on both machines"
        )
    try:
        return kind.model_validate(found, context=parties)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise LinkError(f"malformed message from {party}: {one_line(wrong)}") from error
