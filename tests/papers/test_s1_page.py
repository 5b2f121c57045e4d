"""The page about S1: its tables are what the results beside it say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.s1_page import BLOCK, PAGE, RESULTS, filled

TEXT = PAGE.read_text("utf-8")
BLOCKS = [(match[2], match[3]) for match in BLOCK.finditer(TEXT)]


def test_the_tables_are_what_the_results_say() -> None:
    assert filled(TEXT, RESULTS) == TEXT


@pytest.mark.parametrize(("name", "what"), BLOCKS)
def test_another_result_would_be_another_table(name: str, what: str, tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (RESULTS / f"{name}.json").read_text("utf-8")
    changed = re.sub(r"\d\.\d+", lambda match: str(round(float(match[0]) + 1, 6)), text)
    changed = changed.replace('"depends"', '"holds"')
    (tmp_path / f"{name}.json").write_text(changed, "utf-8")

    written = {(match[2], match[3]): match[0] for match in BLOCK.finditer(filled(TEXT, tmp_path))}
    assert written[name, what] not in TEXT


def test_every_result_is_shown_and_every_picture_is_there() -> None:
    pictures = set(re.findall(r"\]\(s1/([\w-]+\.png)\)", TEXT))

    assert {path.stem for path in RESULTS.glob("*.json")} == {name for name, _ in BLOCKS}
    assert {path.name for path in RESULTS.glob("*.png")} == pictures
    assert all(json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json"))
