"""The check of the project's English."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.prose import main, passages, problems

FUNCTION = 'def speed() -> float:\n    """{}"""\n'


def found(tmp_path: Path, name: str, text: str) -> list[str]:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return [problem.rpartition(f"{name}:")[2] for passage in passages(path) for problem in problems(passage)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comment.py", "x = 1  # the floor of knowing nothing\n"),
        ("message.py", 'x = f"{y} is no bundle"\n'),
        ("docstring.py", FUNCTION.format("Return the ladder.")),
        ("page.md", "# Title\n\nThe score stands above its floor.\n"),
        ("page.html.j2", "<p>{{ name }} is no attack</p>"),
        ("paper.md", "As in S1.\n"),
    ],
)
def test_it_finds_retired_words_in(name: str, text: str, tmp_path: Path) -> None:
    assert len(found(tmp_path, name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("code.py", 'floor = math.floor(1.5)\nx = "floor"\n'),
        ("phrase.py", "# There is no reply, and the link is no longer open.\n"),
        ("message.py", 'x = "s1:33 is a layer"\n'),
        ("page.md", "```\nfloor\n```\n\nCall `floor()` or [see](floor.md).\n"),
        ("page.html.j2", "<style>.floor { top: 0 }</style>{{ floor }}<p class='floor'>Baseline</p>"),
        ("module.py", '"""The speed of links."""\n'),
    ],
)
def test_it_reads_prose_but_not_code(name: str, text: str, tmp_path: Path) -> None:
    assert found(tmp_path, name, text) == []


@pytest.mark.parametrize(
    "first", ["What a link costs.", "The speed of a link.", "``1`` if fast.", "Noise's share."]
)
def test_a_functions_docstring_begins_with_a_verb(first: str, tmp_path: Path) -> None:
    (problem,) = found(tmp_path, "link.py", FUNCTION.format(first))

    assert "docstring" in problem


def test_a_property_may_be_named_by_a_noun(tmp_path: Path) -> None:
    text = "@property\n" + FUNCTION.format("The speed in bits a second.")

    assert found(tmp_path, "link.py", text) == []


def test_each_problem_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("Fine.\n\nIt is no\nfloor.\n", "utf-8")

    assert main([str(page)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{page}:3: 'is no': write is not, has no",
        f"{page}:4: 'floor': write baseline",
    ]
