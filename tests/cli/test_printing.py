"""What an audit prints: of each observation the strongest attack, in 100 columns."""

from __future__ import annotations

import pytest

from cloven.cli.audit_tables import print_observations, print_summary
from tests.reporting.summaries import captured, laddered, summary


def test_each_observation_has_its_strongest_attack_with_interval_and_baseline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = laddered()
    print_summary(given)
    text = capsys.readouterr().out
    assert text.splitlines()[0] == given["verdict"]["sentence"]
    assert "0.63 [0.61, 0.66]" in text
    assert "baseline 0.11, residual, carried" in text
    assert text.count("vertical, Layer ") >= 4
    assert "not converged" in text
    words = " ".join(text.split())
    assert "flag: vertical, Layer 1: SSIM: residual (0.49) is under-trained here" in words
    assert "note: vertical, Layer 1, cgan: collapsed: all reconstructions are alike" in words
    assert "shapes guessed from bytes: 3 of 4 are right" in text


@pytest.mark.parametrize("make", [summary, laddered, captured])
def test_it_fits_a_hundred_columns(make: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(make)
    print_summary(make())
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_of_many_flags_and_notes_the_first_are_printed_and_the_others_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = laddered(30)
    for i, finding in enumerate(given["findings"]):
        finding["notes"] = [f"note {i}"]
    print_summary(given)
    assert "note: 160 more are in the report" in capsys.readouterr().out


def test_what_has_no_labels_no_images_or_no_verdict_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    given = laddered(attacks=("probe",), model_accuracy=None, model_kappa=None)
    print_summary(given | {"verdict": {"given": False, "reason": "nothing crosses", "sentence": None}})
    text = capsys.readouterr().out
    assert "(no labels)" in text
    assert "not scored" in text
    assert "No verdict: nothing crosses" in text


def test_markup_in_names_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    given = laddered()
    for row in given["verdicts"]:
        row["label"] = "[red]x[/red]"
    print_summary(given)
    assert "[red]x[/red]" in capsys.readouterr().out


def test_what_would_be_attacked_names_the_attacks_and_the_transform(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        finding | {"attacks": ["probe", "decoder"], "transform": "int8"} for finding in summary()["findings"][:2]
    ]
    print_observations(rows)
    text = capsys.readouterr().out
    assert "probe, decoder" in text
    assert "int8" in text
    plain = summary()["findings"][0] | {"link": None, "links": [["a", "b"], ["b", "c"]]}
    print_observations([plain])
    text = capsys.readouterr().out
    assert "transform" not in text
    assert "attacks" not in text
    assert "a > b + b > c" in text
