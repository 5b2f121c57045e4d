"""How the links of a plan are protected: one word for all, and others for some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

COORDINATOR = "coordinator"
"""The party that sends the images and gets the outputs; no device may be called so."""

Name = Literal["none", "ascon-128", "ascon-aead128", "aes-128-gcm", "aes-256-gcm", "chacha20-poly1305", "mtls"]
NAMES: tuple[str, ...] = get_args(Name)

Pair = tuple[str, str]
"""Two parties whose link is meant, in both directions."""


class Protection(BaseModel):
    """How links are protected: ``default``, and ``links`` that differ, such as ``{"edge0-edge1": "none"}``.

    ``none`` is readable by whoever listens; ``mtls`` is the transport's own TLS; the others are ciphers whose
    session keys come from a fresh key exchange and the link's pre-shared key.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    default: Name = "none"
    links: dict[str, Name] = {}

    def of(self, one: str, other: str) -> str:
        """Return the protection of what two parties send each other."""
        return self.links.get(f"{one}-{other}") or self.links.get(f"{other}-{one}") or self.default

    def problems(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with it for these devices, one sentence each."""
        return wrong_links("protection.links", self.links, (COORDINATOR, *devices))


UNPROTECTED = Protection()
"""All links in clear."""


def wrong_links(entry: str, links: Iterable[str], parties: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with links such as ``edge0-edge1`` in a plan's entry, one sentence each."""
    seen: dict[frozenset[str], str] = {}
    for name in links:
        try:
            found = frozenset(pair(name, parties))
        except ValueError as error:
            yield f"{entry}: {error}"
            continue
        if found in seen:
            yield f"{entry}: {seen[found]} and {name} are the same link; say it once"
        seen[found] = name


def pair(text: str, parties: Sequence[str]) -> Pair:
    """Return ``edge0-edge1`` as two parties, whose names may hold hyphens too.

    Raises:
        ValueError: where it is no two of the parties, with what they are.
    """
    halves = ((text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "-")
    found = [(one, other) for one, other in halves if one in parties and other in parties and one != other]
    if len(found) != 1:
        raise ValueError(f"{text!r} is no link; expected two of {', '.join(parties)} with a hyphen between")
    return found[0]
