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
        kind: of what was seen there; see `cloven.runtime.tap.flows.Flow`.
        inputs: the number of different images.
        payload: bytes of all payloads.
        bytes: of TCP's content.
        table: the bytes that the transfer table expects.
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
        recorded: counts of the recording.
        protection: of the link.
        tls: whether the workers speak TLS.
        links: there and back.
        warnings: about the capture.
        images: the number of images that were found whole.
        pairs: the folder of the captured pairs; None if nothing could be read.
        differing: captured numbers that are not what the engine sends in one process; None on a protected link.
        unexpected: what is not as the plan says, one sentence each.
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


class LabOutcome(Document):
    """The outcome of sending; ``sent`` are the payload bytes of each link: source, target, bytes."""

    summary: SendSummary
    sent: tuple[tuple[str, str, int], ...]


class LabResult(LabOutcome):
    """The result of an experiment: the outcome, the network, and the evidence if there was a tap."""

    network: tuple[LabLink, ...]
    tap: TapEvidence | None
