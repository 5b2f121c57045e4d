"""The tables and numbers in the pages about the papers, and about speed, are those of the stored results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks import s1_page, s2_page, speed_page
from benchmarks.pages import BLOCK, NUMBER, Page, prose
from PIL import Image

from cloven.documents import read_document
from cloven.papers.s2.enclave_times import TimesFigure
from cloven.papers.s2.privacy import ScoresFigure
from cloven.reporting.enclave_figures import draw, draw_reconstructions, draw_scores
from cloven.reporting.findings import Sample

PAGES = {"s1": s1_page.PAGE, "s2": s2_page.PAGE, "speed": speed_page.PAGE}
BLOCKS = [(name, match[2], match[3]) for name, page in PAGES.items() for match in BLOCK.finditer(page.text)]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_tables_and_numbers_are_those_of_the_results(page: Page) -> None:
    assert page.filled(page.results) == page.text


@pytest.mark.parametrize(("paper", "name", "what"), BLOCKS)
def test_changed_results_change_each_table(paper: str, name: str, what: str, tmp_path: Path) -> None:
    page = PAGES[paper]
    text = (page.results / f"{name}.json").read_text("utf-8")
    changed = re.sub(r"\d\.\d+", lambda match: str(round(float(match[0]) + 1, 6)), text)
    changed = re.sub(r"(?<=: )\d{3,}(?=,?\n)", lambda match: str(2 * int(match[0]) + 1000), changed)
    changed = changed.replace('"depends"', '"holds"')
    changed = re.sub(r'(?<="convolutions": )\d+', lambda match: str(2 * int(match[0]) + 1000), changed)
    changed = re.sub(r'(?<="telemetry": )\d+', lambda match: str(int(match[0]) + 1), changed)
    (tmp_path / f"{name}.json").write_text(changed, "utf-8")

    block = f"<!-- {name}: {what} -->\n<!-- end -->"
    assert page.filled(page.results, block) in page.text
    assert page.filled(tmp_path, block) not in page.text


@pytest.mark.parametrize("paper", PAGES)
def test_every_result_is_shown_and_every_picture_is_there(paper: str) -> None:
    page = PAGES[paper]
    pictures = set(re.findall(rf"\]\({paper}/([\w-]+\.png)\)", page.text))

    assert {path.stem for path in page.results.glob("*.json")} == {name for own, name, _ in BLOCKS if own == paper}
    assert {path.name for path in page.results.glob("*.png")} == pictures
    assert all(json.loads(path.read_text("utf-8")) for path in page.results.glob("*.json"))


def test_pictures_are_drawn_from_results(tmp_path: Path) -> None:
    results = s2_page.PAGE.results
    draw(read_document(TimesFigure, results / "3.json"), tmp_path / "3.png")
    draw_scores(read_document(ScoresFigure, results / "7-resnet20.json"), tmp_path / "7.png")

    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("3.png", "7.png"))


def test_pictures_show_the_same_victim_at_each_cut(tmp_path: Path) -> None:
    figure = read_document(ScoresFigure, s2_page.PAGE.results / "7-resnet20.json")
    grey = np.full((3, 32, 32), 128, np.uint8)
    samples = {row.key: [Sample(role, 0.5, True, grey, grey) for role in ("best", "usual")] for row in figure.rows}
    draw_reconstructions(figure, samples, tmp_path / "6.png")

    with Image.open(tmp_path / "6.png") as made:
        pixels = np.asarray(made.convert("L"))
    enlarged = (pixels == 128).sum() / (3 * 32) ** 2
    assert enlarged >= 4 * (1 + 2)  # four cuts: the original and two attacks
    assert enlarged < 4 * (1 + 2) + 1


# --- the numbers in sentences -----------------------------------------------------------------------------------

CHECKED = ("s1", "s2")
"""The papers on whose pages each number in a sentence is written from a result."""

NO_RESULTS = (
    r"^\d\. ",  # an item of a list
    r"\bLayers? \d+( and \d+)?",
    r"\bFigs?\. \d(\(\w\))?(, \d)?( (and|to) \d)?",
    r"\bTable \d",
    r"\bSect\. \d[\d.]*( and \d[\d.]*)*",
    r"\bSect\. [IV]+-[A-D]\d?",
    r"\bC\d+( to C\d+)?\b",
    r"\b[A-Z][A-Za-z]+-(Lite|[A-Z])?\d+\b",  # LeNet-5, CIFAR-10, Cortex-A7, EfficientNet-Lite0
    r"\bi7-9700K\b",
    r"\bMobileNet v1\b",
    r"\((arXiv \d+\.\d+, )?(19|20)\d\d\)",
    r"\bof twice the side\b|[Tt]wice the size",  # the name of a control
    r"\(paper: [^()]+\)",
    r"\b\d+ x \d+( x \d+)?( pixels)?",
    r"\b(\d, )*\d( and \d)? [Dd]evices\b",
    r"\bkappa below 0\.3\b|\bstays below 0\.2\b|\bby up to 0\.03\b",  # the rules
    r"\b95 % interval\b",
    r"\[0, 1\]|\b8 bits\b|\b80/10/10\b|\brate of 1e-3\b|\bbatches of 64\b|\b1 GHz\b|\b1 W\b",  # the setting
)
"""The numbers in sentences that are not results: names, places in the paper, and the setting."""

COUNT = r"(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
NUMBERS = re.compile(
    r"\d[\d.,]*"
    r"|\b(half|halves|quarters?|fifths?|tenths?|twice|thrice|doubl\w+|tripl\w+|dozens?|hundreds?|thousands?)\b"
    rf"|\b{COUNT} times\b|\bfactor of\b|\b(one|{COUNT}) of (the )?{COUNT}\b",
    re.IGNORECASE,
)
"""Numbers, and words that state one as a result."""


def bare(text: str) -> list[str]:
    """Return each number in a page's sentences that is not written from a result, with the words around it."""
    sentences = prose(text)
    for pattern in NO_RESULTS:
        sentences = re.sub(pattern.replace(" ", r"\s+"), "...", sentences, flags=re.MULTILINE)
    sentences = " ".join(sentences.split())
    return [sentences[max(0, m.start() - 40) : m.end() + 20] for m in NUMBERS.finditer(sentences)]


@pytest.mark.parametrize("paper", CHECKED)
def test_every_number_in_a_sentence_is_a_result_or_a_name(paper: str) -> None:
    assert bare(PAGES[paper].text) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Layer 2 scores 0.81.",
        "Vertical sends 25 MB on 4 devices.",
        "It is 36 times as long.",
        "Tiles leak a\nquarter of it.",
        "It reaches three times the baseline.",
        "- It holds at five of six layers.",
        "The claim (C4) holds by a factor of a hundred.",
        "This differs by up to a tenth (95 % interval).",
    ],
)
def test_a_number_that_is_not_from_a_result_is_found(sentence: str) -> None:
    assert bare(f"{s1_page.PAGE.text}\n\n{sentence}\n")


@pytest.mark.parametrize(
    "text",
    [
        "# 3 claims",
        "| 0.81 | 0.5 |",
        "```shell\ncloven audit --seeds 3\n```",
        "With `--seeds 3`, LeNet-5 on CIFAR-10 (Sect. 5.2.1 and 6, Fig. 5(a)) has Layer 33 on 2, 4 and 8 devices.",
        "It scores <!-- 5a: agreement cifar10 data -->0.14<!-- end --> on 32 x 32 pixels (paper: 224 x 224).",
        "See [the profiles](../figure-3.md), for three layers, one of which is small.",
    ],
)
def test_numbers_that_are_not_results_may_be_written_by_hand(text: str) -> None:
    assert bare(text) == []


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_number_in_a_sentence_does_not_begin_a_line(page: Page) -> None:
    """Markdown would end the paragraph before a comment that begins a line."""
    assert [line for line in page.text.splitlines() if NUMBER.match(line.lstrip(" -"))] == []


def test_a_number_in_a_sentence_is_that_of_its_file(tmp_path: Path) -> None:
    page = s1_page.PAGE
    written = 'It is <!-- 5a: agreement cifar10 vertical "Layer 33" -->{}<!-- end -->, above 12 others.'
    figure = json.loads((page.results / "5a.json").read_text("utf-8"))
    (bar,) = (bar for bar in figure["bars"] if bar["name"] == "5a/cifar10/as in the paper/vertical/Layer 33/4")
    assert page.filled(page.results, written.format("0.99")) == written.format(f"{bar['agreement']['mean']:.2f}")

    bar["agreement"]["mean"] = 0.25
    (tmp_path / "5a.json").write_text(json.dumps(figure), "utf-8")
    assert page.filled(tmp_path, written.format("0.99")) == written.format("0.25")


def test_a_number_of_several_bars_is_their_range() -> None:
    def value(what: str) -> str:
        filled = s1_page.PAGE.filled(s1_page.PAGE.results, f"x <!-- 5c: {what} -->?<!-- end -->")
        return filled.partition("-->")[2].partition("<!--")[0]

    layers = [float(value(f'agreement mnist vertical "Layer {layer}"')) for layer in (2, 3, 5)]
    assert value("agreement mnist vertical") == f"{min(layers):.2f} to {max(layers):.2f}"
    with pytest.raises(ValueError, match=r"no bar of Fig\. 5c is as in the paper nothing"):
        value("agreement nothing")
