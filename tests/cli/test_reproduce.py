"""``cloven reproduce``: its help, and the options that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloven.papers.s1.experiments import CONTROLS
from cloven.papers.s2.published import EFFICIENTNET, RESNET, VGG
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
        (("--claims",), ("there is no figure at scale desk",)),
        (("--claims", "--out", "nowhere"), ("there is no figure at scale desk",)),
        (("--claims", "--scale", "small"), ("--scale is 'small'; choose from full, bench, desk",)),
        (("--figure", "7", *DIGITS), ("--figure is '7'; choose from 5a, 5b, 5c, 6, 3",)),
        (("--figure", "5c", *DIGITS, "--scale", "tiny"), ("--scale is 'tiny'; choose from full, bench, desk",)),
        (
            ("--figure", "5b", *DIGITS, "--scale", "bench"),
            ("--scale bench has no figure 5b; choose from 5a, 5c, 6",),
        ),
        (("--figure", "5c", *DIGITS, "--hours", "-1"), ("--hours",)),
        (("--figure", "5c"), ("--data is missing",)),
        (("--figure", "5c", *DIGITS, "--power", "2W"), ("--clock and --power require --figure 3",)),
        (("--figure", "5c", *DIGITS, "--controls", "nonesuch"), ("--controls has 'nonesuch'; choose from all",)),
        (("--figure", "5c", *DIGITS, "--seeds", "0"), ("--seeds", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--cnn-epochs", "0"), ("--cnn-epochs", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--model", "resnet20"), ("--model is 'resnet20'; figure 5c expects lenet5",)),
        (("--figure", "5a", *DIGITS, "--model", "lenet5"), ("figure 5a expects mobilenet_v1_0.5, in any width",)),
        (("--figure", "5c", *DIGITS, "--initial-weights", "w.pth"), ("w.pth: there is no such file",)),
        (("--figure", "5c", *DIGITS, "--jobs", "0"), ("--jobs", "greater than or equal to 1")),
        (("--figure", "5c", *DIGITS, "--device", "abacus"), ("abacus",)),
        (("--figure", "5c", "--data", "digits,digits"), ("digits is given 2 times",)),
        (("--figure", "5c", "--data", "mnist"), ("mnist needs a folder",)),
        (("--figure", "5c", "--data", "mnist:there,cifar10:here"), ("there", "here")),
        (("--figure", "5c", *DIGITS, "--auxiliary", "folder:there"), ("there",)),
        (("--figure", "5c", "--data", "imagenet:there"), ("unknown data set 'imagenet'",)),
    ],
)
def test_invalid_options_are_refused(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    done = cloven("reproduce", "s1", *options)

    assert done.code == 2, done
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("--clock", "1.2"), ("--clock is '1.2'; expected a number and one of GHz, MHz",)),
        (
            ("--clock", "this-host=3GHz"),
            ("--clock names 'this-host'; choose from cortex-a7, cortex-a9, cortex-a17",),
        ),
        (
            ("--clock", "1GHz,2GHz", "--power", "0W,cortex-a8=2W,cortex-a9=much"),
            (
                "--clock has two values for all processors; expected one",
                "--power is '0W'; expected more than 0",
                "--power names 'cortex-a8'; choose from cortex-a7, cortex-a9, cortex-a17, this-host",
                "--power is 'much'; expected a number and one of W, mW",
            ),
        ),
    ],
)
def test_invalid_clocks_and_powers_are_refused(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    done = cloven("reproduce", "s1", "--figure", "3", *options)

    assert done.code == 2
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert not list(here.iterdir())


@pytest.mark.slow
def test_clocks_and_powers_apply_to_all_processors_or_to_those_that_are_named(cloven: Run) -> None:
    options = ("--clock", "1.2GHz,cortex-a17=1800MHz", "--power", "0.5W,this-host=15W")

    done = cloven("reproduce", "s1", "--figure", "3", *options, "--json")

    assert done.code == 0
    figure = json.loads(done.out)
    assert [(board["clock"], board["power"]) for board in figure["boards"]] == [
        (1.2e9, 0.5),
        (1.2e9, 0.5),
        (1.8e9, 0.5),
    ]
    for preset in figure["readings"][0]["presets"]:
        power = 15.0 if preset["name"] == "measured" else 0.5
        for bar in preset["bars"]:
            assert bar["joules_with"] == pytest.approx(power * bar["seconds_with"])


def test_all_invalid_options_are_reported_at_once(cloven: Run, here: Path) -> None:
    done = cloven("reproduce", "s1", "--figure", "9", "--scale", "huge", "--controls", "magic, all on a link")

    assert done.code == 2
    for words in ("--figure is '9'", "--scale is 'huge'", "--controls has 'magic'", "--data is missing"):
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


# --- Rajasekar et al. (2024) -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_counts_the_work_of_the_enclave(cloven: Run) -> None:
    """MMACs and weights before the paper's cuts and of the whole models are those counted by hand."""
    done = cloven("reproduce", "s2", "--table", "3", "--published", "--json")
    rows = {(row["model"], row["point"]): row for row in json.loads(done.out)["fit"]["rows"]}

    assert done.code == 0
    expected = {
        (VGG, 8): (10260.0, 11.66),
        (VGG, None): (15470.3, 553.43),
        (RESNET, 3): (1813.6, 5.78),
        (RESNET, 4): (3277.9, 34.17),
        (RESNET, None): (4089.2, 102.2),
        (EFFICIENTNET, 4): (113.8, 0.26),
        (EFFICIENTNET, None): (385.8, 21.2),
    }
    for where, (mmac, megabytes) in expected.items():
        assert rows[where]["macs"] / 1e6 == pytest.approx(mmac, abs=0.06)
        assert rows[where]["weight_bytes"] / 1e6 == pytest.approx(
            megabytes, rel=0.02, abs=0.02
        )  # including batch statistics


SEVEN = ("--figure", "7", "--model", "resnet20", "--data", "digits", "--weights", "w.th")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ((), ("give --figure 3, 4, 5, 6, 7 or 8, or --table 1, 2, 3 or classifiers, or --table 3 --published",)),
        (("--table", "3"), ("--model is missing", "--data is missing", "--weights is missing")),
        (("--published",), ("give --figure 3, 4, 5, 6, 7 or 8",)),
        (("--figure", "3", "--published"), ("give --figure 3, 4, 5, 6, 7 or 8",)),
        (("--figure", "3", "--table", "1"), ("give --figure 3, 4, 5, 6, 7 or 8",)),
        (("--figure", "9"), ("give --figure 3, 4, 5, 6, 7 or 8",)),
        (("--figure", "6"), ("--data is missing", "--weights is missing")),
        (
            ("--figure", "3", "--scale", "tiny", "--handover", "mail", "--model", "lenet5"),
            (
                "--scale is 'tiny'; choose from full, desk",
                "--handover is 'mail'",
                "Rajasekar et al. (2024) do not cut 'lenet5'",
            ),
        ),
        (("--figure", "3", "--backend", "sgx"), ("the backend is 'sgx'",)),
        (("--figure", "3", "--data", "folder:there"), ("there",)),
        (
            ("--figure", "7", "--scale", "tiny", "--device", "abacus"),
            ("--scale is 'tiny'", "--data is missing", "--model is missing", "--weights is missing", "abacus"),
        ),
        ((*SEVEN, "--attacks", "nonesuch"), ("no attack is named 'nonesuch'",)),
        (SEVEN, ("w.th: there is no such file",)),
    ],
)
def test_invalid_options_of_s2_are_refused(
    cloven: Run, here: Path, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    done = cloven("reproduce", "s2", *options)

    assert done.code == 2
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert not list(here.iterdir())
