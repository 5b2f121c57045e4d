"""The command that makes S1's figures again: its help, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloven.papers.experiments import CONTROLS
from tests.cli.conftest import Run


@pytest.mark.parametrize("command", [("reproduce",), ("reproduce", "s1")])
def test_help(cloven: Run, command: tuple[str, ...]) -> None:
    done = cloven(*command, "--help")

    assert done.code == 0
    assert "Traceback" not in done.err
    wanted = ("s1",) if len(command) == 1 else ("--figure", "--claims", "--data", "--scale", "--controls", "--json")
    assert all(word in done.out for word in wanted)


DIGITS = ("--data", "digits")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ((), ("give either --figure (3, 5a, 5b, 5c or 6) or --claims",)),
        (("--figure", "5c", "--claims"), ("give either --figure",)),
        (("--claims",), ("no figure of S1 was made at scale desk",)),
        (("--claims", "--out", "nowhere"), ("no figure of S1 was made at scale desk",)),
        (("--figure", "7", *DIGITS), ("--figure is '7'; choose from 5a, 5b, 5c, 6, 3",)),
        (("--figure", "5c", *DIGITS, "--scale", "tiny"), ("--scale is 'tiny'; choose from full, desk",)),
        (("--figure", "5c"), ("--data is left out",)),
        (("--figure", "5c", *DIGITS, "--controls", "nonesuch"), ("--controls names 'nonesuch'; choose from all",)),
        (("--figure", "5c", *DIGITS, "--seeds", "0"), ("--seeds", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--cnn-epochs", "0"), ("--cnn-epochs", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--jobs", "0"), ("--jobs", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--device", "abacus"), ("abacus",)),
        (("--figure", "5c", "--data", "digits,digits"), ("digits is given 2 times",)),
        (("--figure", "5c", "--data", "mnist"), ("mnist needs a folder",)),
        (("--figure", "5c", "--data", "mnist:there,cifar10:here"), ("there", "here")),
        (("--figure", "5c", *DIGITS, "--auxiliary", "folder:there"), ("there",)),
        (("--figure", "5c", "--data", "imagenet:there"), ("unknown data set 'imagenet'",)),
    ],
)
def test_what_cannot_be_meant_is_one_message(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    done = cloven("reproduce", "s1", *options)

    assert done.code == 2, done
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert not list(here.iterdir())


def test_all_mistakes_in_options_are_said_at_once(cloven: Run, here: Path) -> None:
    done = cloven("reproduce", "s1", "--figure", "9", "--scale", "huge", "--controls", "magic, all on a link")

    assert done.code == 2
    for words in ("--figure is '9'", "--scale is 'huge'", "--controls names 'magic'", "--data is left out"):
        assert words in done.err
    assert "names 'all on a link'" not in done.err
    assert all(name in done.err for name in CONTROLS)
    assert not list(here.iterdir())


@pytest.mark.parametrize("content", ["{}", "not json", "[]"])
def test_claims_of_a_broken_figure(cloven: Run, here: Path, content: str) -> None:
    folder = here / "runs" / "s1-5c-desk"
    folder.mkdir(parents=True)
    (folder / "figure.json").write_text(content)
    done = cloven("reproduce", "s1", "--claims")

    assert done.code == 2
    assert "Traceback" not in done.err
    assert "s1-5c-desk" in done.err
