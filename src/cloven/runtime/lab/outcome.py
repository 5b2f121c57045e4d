"""The documents of a laboratory: the outcome of sending, the network, and the evidence of the tap."""

from __future__ import annotations

from cloven.documents import Document
from cloven.runtime.cluster.sending import SendSummary
from cloven.runtime.lab.network import LabLink
from cloven.runtime.tap.live import RecordingSummary


class LinkEvidence(Document):
    """One direction of the tapped link.

    Attributes:
        link: source and target.
        kind: the kind of traffic; see `cloven.runtime.tap.flows.Flow`.
        inputs: the number of different images.
        payload: the payload, in bytes.
        bytes: the TCP content, in bytes.
        table: the payload that the transfer table expects, in bytes.
    """

    link: tuple[str, str]
    kind: str
    inputs: int
    payload: int
    bytes: int
    table: int


class TapEvidence(Document):
    """The evidence of a tap on a link, compared with the plan.

    Attributes:
        recorded: the counts of the recording.
        protection: the protection of the link.
        tls: whether the workers use TLS.
        links: both directions.
        warnings: warnings about the capture.
        images: the number of images that were captured completely.
        pairs: the folder of the captured pairs; None if nothing could be read.
        differing: the number of captured numbers that are not what the engine sends in one process; None on a
            protected link.
        unexpected: one sentence for each difference from the plan.
    """

    recorded: RecordingSummary
    protection: str
    tls: bool
    links: tuple[LinkEvidence, LinkEvidence]
    warnings: tuple[str, ...]
    images: int = 0
    pairs: str | None = None
    differing: int | None = None
    unexpected: tuple[str, ...] = ()


class EmulatedDevice(Document):
    """A device of a laboratory: its speed as a share of this machine's, and its memory limit in bytes, if any."""

    device: str
    speed: float
    memory: int | None


class LabOutcome(Document):
    """The outcome of sending; ``sent`` lists the payload of each link: source, target, bytes."""

    summary: SendSummary
    sent: tuple[tuple[str, str, int], ...]


class LabResult(LabOutcome):
    """The result of an experiment: the outcome, the devices, the network, and the evidence if there was a tap."""

    emulated: tuple[EmulatedDevice, ...]
    network: tuple[LabLink, ...]
    tap: TapEvidence | None
