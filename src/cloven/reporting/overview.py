"""The divided model as devices and links, and at each link what the strongest attack made of what crosses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2

from cloven.auditing.finding import AXES, Finding, cut, device_of
from cloven.auditing.summary import ComputedLayer, ObservationSummary, ProgramSummary, Summary
from cloven.reporting import words
from cloven.reporting.levels import Leak, LeakLimit, Level, learned, level
from cloven.reporting.mesh import Mesh, mesh

CARDS = 4
"""The most places of a row that are drawn where devices do not form a chain; all are in the tables."""
NAMED = 3
"""The most places that a sentence lists."""
SLABS = 10
"""The most layers that are drawn in a device."""

Link = tuple[str, str]


@dataclass(frozen=True)
class Station:
    """A device, and the layers that it computes; None if they are unknown.

    ``trusted`` is true for an enclave, and for a trusted device of a plan where another is ``untrusted``.
    """

    name: str
    trusted: bool = False
    layers: tuple[ComputedLayer, ...] | None = ()
    untrusted: bool = False

    @property
    def computes(self) -> str:
        """The names of its layers, ``conv1 to fc (9 layers)``; ``forwards`` if there are none."""
        if self.layers is None:
            return ""
        if not self.layers:
            return "forwards"
        names = [words.clean(layer.name, 24) for layer in self.layers]
        return ", ".join(names) if len(names) <= 2 else f"{names[0]} to {names[-1]} ({len(names)} layers)"

    @property
    def slabs(self) -> tuple[tuple[float, float], ...]:
        """The width and height of each layer as it is drawn: channels and side of its output, on a log scale."""
        layers = self.layers or ()
        shown = layers if len(layers) <= SLABS else [layers[i * len(layers) // SLABS] for i in range(SLABS)]
        return tuple(map(_slab, shown))


def _slab(layer: ComputedLayer) -> tuple[float, float]:
    channels, side = layer.shape[0], max(layer.shape[1:], default=1)
    return 1.0 + 1.3 * log2(1 + channels), 6.0 + 8.5 * log2(1 + min(side, 63))


@dataclass(frozen=True, eq=False)
class Tap:
    """A place where someone may listen: a link, links that are tapped together, or a device.

    Attributes:
        links: the links that are listened on.
        device: the device that the listener controls, where it is one.
        cut: where in the model the observation is taken, ``after conv2``.
        bytes: of all that is seen, for one image.
        protection: the names of what encrypts the links; none in clear.
        reader: the device that receives what is seen and is not trusted, which encryption does not stop.
        finding: the strongest attack on the image; None where none was tried.
        pixels: leakage of the image.
        labels: leakage of the class.
        raw: the share of the image's own numbers that is seen.
        attacked: whether any attack was tried here.
        exposed: whether others can listen here.
        learns: what a listener learns, as a predicate; empty where no verdict is given.
    """

    links: tuple[Link, ...]
    device: str | None
    cut: str
    bytes: int
    protection: tuple[str, ...] = ()
    reader: str | None = None
    finding: Finding | None = None
    pixels: Leak | LeakLimit | None = None
    labels: Leak | LeakLimit | None = None
    raw: float = 0.0
    attacked: bool = False
    exposed: bool = True
    learns: str = ""

    @property
    def name(self) -> str:
        """``edge0 → edge1``, or the device."""
        if self.device is not None:
            return f"device {words.clean(self.device, 32)}"
        return (
            " together with ".join(" → ".join(words.clean(end, 32) for end in link) for link in self.links)
            or "no link"
        )

    @property
    def subject(self) -> str:
        """The subject of a sentence about this place; empty for a listener on links."""
        if self.device is not None:
            return f"Whoever controls {words.clean(self.device, 32)}"
        if self.reader is None:
            return ""
        reader = f"The untrusted {words.clean(self.reader, 32)}"
        also = "which decrypts what it gets" if self.protection else "and anyone listening to what it gets"
        return f"{reader}, {also},"

    @property
    def silent(self) -> bool:
        """True where others can listen, but no attack was tried that says what they learn."""
        return self.exposed and not self.attacked and not self.learns

    @property
    def encrypted(self) -> bool:
        """True where a listener sees only ciphertext."""
        return bool(self.protection) and self.reader is None

    @property
    def steps(self) -> tuple[Level, Level]:
        """The steps of leakage, of the image and of the class, that the intervals do not exclude."""
        image = max(level(self.raw), self.pixels.most if self.pixels else Level.NOTHING)
        return image, self.labels.most if self.labels else Level.NOTHING

    @property
    def levels(self) -> tuple[Level, Level]:
        """The same for a listener: nothing of what is encrypted, and of what there is no verdict on."""
        return self.steps if self.learns and not self.encrypted else (Level.NOTHING, Level.NOTHING)

    @property
    def worst(self) -> tuple[float, ...]:
        """The order of places: in clear before encrypted, then by the steps and the upper limits of leakage."""
        ends = [leak.high if leak else 0.0 for leak in (self.pixels, self.labels)]
        return float(not self.encrypted), *map(float, self.levels), *ends


@dataclass(frozen=True, eq=False)
class Row:
    """A program drawn: its devices, and the places where it is listened to.

    Attributes:
        title: of the program.
        stations: the devices, in order.
        hops: where the devices form a chain, the link behind each but the last; otherwise empty.
        taps: the other places, what leaks most first; ``more`` are not drawn.
        links: each link between devices, attacked or not.
        remarks: sentences about the links that bring the image in and return the answer.
    """

    title: str
    stations: tuple[Station, ...]
    hops: tuple[Tap, ...]
    taps: tuple[Tap, ...]
    more: int
    links: Mapping[Link, Tap]
    remarks: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """True where a link that others can listen to was not attacked."""
        return any(tap.silent for tap in (*self.hops, *self.links.values()))

    @property
    def inner(self) -> bool:
        """True where others cannot listen to a link."""
        return not all(tap.exposed for tap in (*self.hops, *self.links.values()))

    @property
    def chain(self) -> bool:
        """True where the devices are drawn in a row."""
        return bool(self.hops) or len(self.stations) == 1

    @property
    def encrypted(self) -> bool:
        """True where a link is encrypted."""
        return any(tap.protection for tap in (*self.hops, *self.links.values()))

    @property
    def mesh(self) -> Mesh:
        """The devices on an ellipse, and their links."""
        return mesh([station.name for station in self.stations], self.links)

    @property
    def sentence(self) -> str:
        """The row in one sentence, and what was not attacked in another."""
        places = [*self.hops, *self.taps]
        silent = [tap.name for tap in places if tap.silent]
        left_out = [f"Not attacked: {', '.join(silent)}."] if silent else []
        return " ".join([*_clauses(places, chain=bool(self.hops)), *left_out])


def drawn(summary: Summary) -> tuple[Row, ...]:
    """Return each program of an audit as a row, chains first; what a tap recorded as a row of two devices."""
    if summary.capture is not None:
        return (_captured(summary),)
    rows = [_row(program, summary) for program in summary.programs]
    shown = [row for row in rows if row.hops or row.taps]
    return tuple(sorted(shown, key=lambda row: not row.hops))


def _row(program: ProgramSummary, summary: Summary) -> Row:
    stations = tuple(Station(part.device, part.trusted, part.layers) for part in program.parts)
    names = [station.name for station in stations]
    links = [one.link for one in program.links if set(one.link) <= set(names)]
    pairs = list(pairwise(names))
    chain = bool(pairs) and set(links) <= set(pairs)
    whole, shares = tapped(program, summary)
    on_links = {tap.links[0]: tap for tap in whole if tap.device is None and len(tap.links) == 1}
    hops = tuple(on_links.get(pair) or _silent(program, pair) for pair in (pairs if chain else ()))
    others = [tap for tap in (*whole, *shares) if tap not in hops]
    others.sort(key=lambda tap: tap.worst, reverse=True)
    how = "" if program.transform == "none" else f", {program.transform}"
    return Row(
        title=f"{program.title}{how}",
        stations=stations,
        hops=hops,
        taps=tuple(others[:CARDS]),
        more=len(others[CARDS:]),
        links={link: on_links.get(link) or _silent(program, link) for link in links},
        remarks=tuple(
            f"The link that brings the image in is {encryption(one.protection, 'the image itself')}."
            for one in program.links
            if one.link[0] not in names
        )[:1],
    )


def encryption(protection: str, content: str) -> str:
    """Return how a link is encrypted; or that it is not, and so others have its content."""
    if protection != "none":
        return f"encrypted ({protection})"
    return f"not encrypted: whoever listens there has {content}"


def _silent(program: ProgramSummary, link: Link) -> Tap:
    """Return a link that was not attacked."""
    sent = [transfer for transfer in program.transfers if (transfer.source, transfer.target) == link]
    layers = tuple(dict.fromkeys(transfer.value for transfer in sent))
    names = tuple(one.protection for one in program.links if one.link == link and one.protection != "none")
    return Tap((link,), None, cut(layers) if sent else "nothing", sum(one.bytes for one in sent), names)


def tapped(program: ProgramSummary, summary: Summary) -> tuple[list[Tap], list[Tap]]:
    """Return where a program was listened to: all that a tap gets; and of other links the share that leaks most.

    What no link carries is left out: nobody can listen to it.
    """
    observed = {one.observation: one for one in summary.observations}
    attacks = {(finding.observation, finding.attack): finding for finding in summary.findings}
    trusted = {part.device for part in program.parts if part.trusted}
    sent = {one.link: one.bytes for one in program.links}
    whole: dict[tuple[Link, ...] | str, Tap] = {}
    shares: dict[tuple[Link, ...], list[Tap]] = {}
    for finding in summary.findings:
        if (finding.plan, finding.transform) != (program.title, program.transform) or not finding.crosses:
            continue
        tap = _tap(finding, observed[finding.observation], attacks, trusted, given=summary.verdict.given)
        if finding.view == "full" or tap.bytes == sum(sent.get(link, 0) for link in tap.links):
            whole.setdefault(tap.device or tap.links, tap)
        else:
            share = replace(tap, cut=cut(finding.layers, share=True))
            shares.setdefault(tap.links, []).append(share)
    parts = [max(found, key=lambda tap: tap.worst) for links, found in shares.items() if links not in whole]
    return list(whole.values()), parts


def _tap(
    finding: Finding,
    row: ObservationSummary,
    attacks: Mapping[tuple[str, str], Finding],
    trusted: set[str],
    *,
    given: bool,
) -> Tap:
    """Return the place of a finding with the strongest attacks there."""
    scores = {axis: row.counts.on(axis) for axis in AXES}
    pixels, labels = (Leak(score) if score is not None else None for score in scores.values())
    best = scores["pixels"]
    device = device_of(finding.label)
    readers = [end for link in finding.links for end in link if trusted and end not in trusted]
    tap = Tap(
        links=finding.links,
        device=device,
        cut=cut(finding.layers, share=0 < (finding.raw_image or 0) < 1),
        bytes=finding.observation_bytes,
        protection=tuple(dict.fromkeys(name for name in finding.protection if name != "none")),
        reader=readers[0] if readers else None,
        finding=attacks.get((best.carried_from or finding.observation, best.attack)) if best is not None else None,
        pixels=pixels,
        labels=labels,
        raw=finding.raw_image or 0.0,
        attacked=True,
    )
    if not given:
        return tap
    if tap.encrypted:
        return replace(tap, learns=f"sees only ciphertext ({words.listed(tap.protection)})")
    return replace(tap, learns=learned(pixels, labels, tap.raw, labels_read=row.labels_read))


def _captured(summary: Summary) -> Row:
    """Return a recorded link as a row of its two ends; attacks got what was recorded, ciphertext or not."""
    capture = summary.capture
    assert capture is not None
    observed = {one.observation: one for one in summary.observations}
    attacks = {(finding.observation, finding.attack): finding for finding in summary.findings}
    taps = [
        _tap(finding, observed[finding.observation], attacks, set(), given=summary.verdict.given)
        for finding in summary.findings[:1]
    ]
    taps = [replace(tap, cut=words.plural(len(capture.messages), "message")) for tap in taps]
    ends = tuple(Station(device) for device in capture.link)
    how = "encrypted" if capture.protected else "in clear"
    return Row(f"Recorded on the link, which is {how}", ends, tuple(taps), (), 0, {})


def _clauses(places: Sequence[Tap], *, chain: bool) -> list[str]:
    """Return who learns what in a sentence: a clause for each thing that is learned, in the order of the places."""
    clauses: list[str] = []
    listeners: dict[str, list[Tap]] = {}
    for tap in places:
        if tap.learns and tap.subject:
            clauses.append(f"{tap.subject} {tap.learns}")
        elif tap.learns:
            listeners.setdefault(tap.learns, []).append(tap)
    listening = "anyone listening " if clauses else "Anyone listening "
    for number, (learns, taps) in enumerate(listeners.items()):
        where = _between(taps) if chain else [f"on {tap.name}" for tap in taps]
        more = [f"on {words.plural(len(where) - NAMED, 'other link')}"] if len(where) > NAMED else []
        clauses.append(f"{'' if number else listening}{' or '.join([*where[:NAMED], *more])} {learns}")
    return [f"{'; '.join(clauses)}."] if clauses else []


def _between(taps: Sequence[Tap]) -> list[str]:
    """Return the places of taps on a chain, ``between edge0 and edge1``; links that follow one another together."""
    alone = [tap.links[0] for tap in taps if len(tap.links) == 1]
    spans: list[list[Link]] = []
    for link in alone:
        if spans and spans[-1][-1][1] == link[0]:
            spans[-1].append(link)
        else:
            spans.append([link])
    ends = [(words.clean(span[0][0], 32), words.clean(span[-1][1], 32)) for span in spans]
    anywhere = ["anywhere " if len(span) > 1 else "" for span in spans]
    between = [f"{lead}between {one} and {other}" for lead, (one, other) in zip(anywhere, ends, strict=True)]
    return [*between, *(f"on {tap.name}" for tap in taps if len(tap.links) > 1)]
