"""The protection of a plan's links: a default, and other protections for single links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from cloven.errors import ClovenError

COORDINATOR = "coordinator"
"""The party that sends the images and receives the outputs; no device may have this name."""

Name = Literal["none", "ascon-128", "ascon-aead128", "aes-128-gcm", "aes-256-gcm", "chacha20-poly1305", "mtls"]
NAMES: tuple[str, ...] = get_args(Name)

KEY_BITS = {
    "ascon-128": 128,
    "ascon-aead128": 128,
    "aes-128-gcm": 128,
    "aes-256-gcm": 256,
    "chacha20-poly1305": 256,
}
"""The length of the key of each cipher in bits."""

LONGEST = 512
"""More bits than any key has."""

Pair = tuple[str, str]
"""The two parties of a link, for both directions."""


class Protection(BaseModel):
    """The protection of links: ``default``, and ``links`` that differ, such as ``{"edge0-edge1": "none"}``.

    ``none`` sends in the clear; ``mtls`` is mutual TLS in the transport; the others are ciphers with session keys
    from a fresh key exchange and the link's pre-shared key.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    default: Name = "none"
    links: dict[str, Name] = {}

    def of(self, one: str, other: str) -> str:
        """Return the protection of the link between two parties."""
        return self.links.get(f"{one}-{other}") or self.links.get(f"{other}-{one}") or self.default

    def of_all(self) -> str:
        """Return the protection of all links.

        Raises:
            ClovenError: if single links differ.
        """
        differ = [name for name, protection in self.links.items() if protection != self.default]
        if differ:
            raise ClovenError(
                f"the plan protects {', '.join(differ)} with another cipher than {self.default}, but a worker that "
                "takes any task needs one protection for all links: remove protection.links from the plan"
            )
        return self.default

    def problems(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield the problems for these devices, one sentence each."""
        return wrong_links("protection.links", self.links, (COORDINATOR, *devices))


UNPROTECTED = Protection()
"""All links in the clear."""


def wrong_links(entry: str, links: Iterable[str], parties: Sequence[str]) -> Iterator[str]:
    """Yield the problems of links such as ``edge0-edge1`` in a plan's entry, one sentence each."""
    seen: dict[frozenset[str], str] = {}
    for name in links:
        try:
            found = frozenset(pair(name, parties))
        except ValueError as error:
            yield f"{entry}: {error}"
            continue
        if found in seen:
            yield f"{entry}: {seen[found]} and {name} are the same link; remove one of them"
        seen[found] = name


def pair(text: str, parties: Sequence[str]) -> Pair:
    """Return the two parties of a link such as ``edge0-edge1``; their names may contain hyphens too.

    Raises:
        ValueError: if the text does not name exactly two of the parties; the message lists them.
    """
    halves = ((text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "-")
    found = [(one, other) for one, other in halves if one in parties and other in parties and one != other]
    if len(found) != 1:
        raise ValueError(f"{text!r} is not a link; expected two of {', '.join(parties)} joined by a hyphen")
    return found[0]


def weakened(before: Protection, after: Protection, parties: Sequence[str]) -> list[str]:
    """Return the links between parties that a second protection protects less than a first one, such as ``a-b``.

    A link that was in the clear may have any protection. Mutual TLS can only be replaced by itself, and a cipher by
    one whose key is at least as long.
    """
    found = []
    for i, one in enumerate(parties):
        for other in parties[i + 1 :]:
            was, now = before.of(one, other), after.of(one, other)
            if was not in ("none", now) and KEY_BITS.get(now, 0) < KEY_BITS.get(was, LONGEST):
                found.append(f"{one}-{other}")
    return found
