"""The tables in the pages about the papers are those of the stored results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks import s1_page, s2_page
from benchmarks.pages import BLOCK, Page

from cloven.documents import read_document
from cloven.papers.s2.enclave_times import TimesFigure
from cloven.papers.s2.privacy import ScoresFigure
from cloven.reporting.enclave_figures import draw, draw_scores

PAGES = {"s1": s1_page.PAGE, "s2": s2_page.PAGE}
BLOCKS = [(name, match[2], match[3]) for name, page in PAGES.items() for match in BLOCK.finditer(page.text)]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_tables_are_those_of_the_results(page: Page) -> None:
    assert page.filled(page.results) == page.text


@pytest.mark.parametrize(("paper", "name", "what"), BLOCKS)
def test_changed_results_change_each_table(paper: str, name: str, what: str, tmp_path: Path) -> None:
    page = PAGES[paper]
    for path in page.results.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (page.results / f"{name}.json").read_text("utf-8")
    changed = re.sub(r"\d\.\d+", lambda match: str(round(float(match[0]) + 1, 6)), text)
    changed = changed.replace('"depends"', '"holds"')
    (tmp_path / f"{name}.json").write_text(changed, "utf-8")

    written = {(match[2], match[3]): match[0] for match in BLOCK.finditer(page.filled(tmp_path))}
    assert written[name, what] not in page.text


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
