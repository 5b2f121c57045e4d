"""The protection of links: the protection that applies to each link, and entries that are refused."""

from __future__ import annotations

import pytest

from cloven.errors import ClovenError
from cloven.partition import plan as plans
from cloven.partition.plan_options import protected
from cloven.partition.protection import COORDINATOR, NAMES, Protection, pair
from cloven.runtime.link.ciphers import CIPHERS, NONE, named
from tests.partition.texts import PLAN


def test_a_link_has_its_own_word_or_the_default_in_both_directions() -> None:
    made = Protection(default="aes-128-gcm", links={"edge0-edge1": "none", "coordinator-edge0": "mtls"})

    assert made.of("edge0", "edge1") == made.of("edge1", "edge0") == "none"
    assert made.of("edge0", COORDINATOR) == "mtls"
    assert made.of("edge1", "edge-2") == "aes-128-gcm"
    assert Protection().of("edge0", "edge1") == "none"


def test_every_word_is_a_cipher_or_none_or_mtls() -> None:
    assert set(NAMES) == {NONE, "mtls", *CIPHERS}
    assert named(NONE) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a-b", ("a", "b")), ("a-b-c", ("a", "b-c")), ("b-c-a", ("b-c", "a"))],
)
def test_two_parties_whose_names_hold_hyphens(text: str, expected: tuple[str, str]) -> None:
    assert pair(text, ("a", "b", "b-c")) == expected


@pytest.mark.parametrize("text", ["", "a", "a-", "-a", "a-a", "a-d", "a_b", "a-b-c-d"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(ValueError, match="is not a link; expected two of a, b, b-c joined by a hyphen"):
        pair(text, ("a", "b", "b-c"))


def test_one_text_that_means_two_links_is_refused() -> None:
    with pytest.raises(ValueError, match="'a-b-c' is not a link"):
        pair("a-b-c", ("a", "b-c", "a-b", "c"))


def test_a_plan_keeps_its_protection_in_its_file() -> None:
    words = '[protection]\ndefault = "ascon-128"\n[protection.links]\n"edge0-edge1" = "none"\n'
    made = plans.parse(PLAN + words)

    assert made.protection == Protection(default="ascon-128", links={"edge0-edge1": "none"})
    assert plans.parse(made.toml()) == made
    assert "protection" not in plans.parse(PLAN).toml()


def test_all_that_is_wrong_is_said_at_once() -> None:
    made = Protection(links={"edge0-edge9": "none", "edge0-edge1": "none", "edge1-edge0": "mtls", "edge0": "mtls"})

    found = list(made.problems(("edge0", "edge1")))

    assert len(found) == 3
    assert "'edge0-edge9' is not a link; expected two of coordinator, edge0, edge1" in found[0]
    assert "edge0-edge1 and edge1-edge0 are the same link" in found[1]
    assert "'edge0' is not a link" in found[2]


def test_an_unknown_word_names_those_that_are_known() -> None:
    with pytest.raises(ClovenError, match=r"protection\.default: .*'aes-128-gcm'.*got 'rot13'"):
        plans.parse(PLAN + '[protection]\ndefault = "rot13"\n')


def test_options_become_a_plans_table() -> None:
    assert protected([]) == {}
    assert protected(["ascon-128"]) == {"protection": {"default": "ascon-128", "links": {}}}
    assert protected(["none", "a-b=mtls", "b-c=none"]) == {
        "protection": {"default": "none", "links": {"a-b": "mtls", "b-c": "none"}}
    }
