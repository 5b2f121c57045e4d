"""The printed tables of an audit: the strongest attack on each observation, in 100 columns."""

from __future__ import annotations

import pytest

from cloven.advising.advice import Relaxation
from cloven.auditing.cases import Target, tapped
from cloven.cli.advise import print_advice
from cloven.cli.audit_tables import print_observations, print_summary
from cloven.partition.observe import seen_on
from tests.auditing.small import small
from tests.reporting import advices
from tests.reporting.summaries import captured, document, laddered, summary


def test_each_observation_has_its_strongest_attack_with_interval_and_baseline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_summary(document(laddered()))
    text = capsys.readouterr().out
    assert "0.63 [0.61, 0.66]" in text
    assert "leaks up to 61%, baseline" in " ".join(text.split())
    assert "residual, carried over" in text
    assert text.count("vertical, Layer ") >= 4
    assert "still rises with more training" in " ".join(text.split())
    words = " ".join(text.split())
    assert "flag: vertical, Layer 1: SSIM: residual (0.49) is under-trained here" in words
    assert "note: vertical, Layer 1, cgan: collapsed: all reconstructions are alike" in words
    assert "shapes guessed from bytes: 3 of 4 are right" in text


@pytest.mark.parametrize("make", [summary, laddered, captured])
def test_it_fits_a_hundred_columns(make: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(make)
    print_summary(document(make()))
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_of_many_flags_and_notes_the_first_are_printed_and_the_others_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = laddered(30)
    for i, finding in enumerate(given["findings"]):
        finding["notes"] = [f"note {i}"]
    print_summary(document(given))
    assert "note: 160 more are in the report" in capsys.readouterr().out


def test_what_has_no_labels_no_images_or_no_verdict_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    given = laddered(attacks=("probe",), model_accuracy=None, model_kappa=None)
    refused = {"given": False, "reason": "nothing crosses", "sentence": None}
    print_summary(document(given | {"verdict": refused}))
    text = capsys.readouterr().out
    assert "(no labels)" in text
    assert "not scored" in text
    assert "No verdict: nothing crosses" in text


def test_markup_in_names_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    given = laddered()
    for row in given["observations"]:
        row["label"] = "[red]x[/red]"
    print_summary(document(given))
    assert "[red]x[/red]" in capsys.readouterr().out


def test_the_verdict_is_printed_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(document(laddered()))
    assert capsys.readouterr().out.startswith("Of what really crosses a link, layer 2 leaks most.")


def test_what_would_be_attacked_names_the_attacks_and_the_transform(capsys: pytest.CaptureFixture[str]) -> None:
    program = small().program
    links = tapped(Target("vertical", "", program, transform="int8"), small().seen(0))
    print_observations([(links, ("probe", "decoder"))])
    text = capsys.readouterr().out
    assert "probe, decoder" in text
    assert "int8" in text
    both = tapped(Target("vertical", "", program), seen_on(program, *program.links[:2]))
    print_observations([(both, ())])
    text = capsys.readouterr().out
    assert "transform" not in text
    assert "edge0 > edge1 + edge1 > edge2" in text


def test_a_division_that_only_missed_the_second_attack_has_no_limits_to_relax(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nearest = Relaxation(division="all of it on edge0", limits=())
    relaxable = nearest.model_copy(update={"limits": ("latency: 0.4 s instead of 0.3 s",)})

    for one in (nearest, relaxable):
        print_advice(advices.refused().model_copy(update={"nearest": one}))

    text = " ".join(capsys.readouterr().out.split())
    assert text.count("Nearest: all of it on edge0.") == 2
    assert text.count("Limits to relax: latency: 0.4 s instead of 0.3 s") == text.count("Limits to relax:") == 1
