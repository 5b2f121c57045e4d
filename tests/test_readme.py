"""The README's own code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_block_runs_as_it_stands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}

    exec(block, names)

    assert "edge0->edge1" in capsys.readouterr().out
    assert tuple(getattr(names["logits"], "shape", ())) == (100, 10)


def code(path: Path) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return "".join(text for language, text in blocks if not language)


def found(command: Any, words: list[str]) -> Any:
    """The command that words name, through groups of commands."""
    while commands := getattr(command, "commands", None):
        command, *words = commands[words[0]], *words[1:]
    return command


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "docs" / "three-hosts.md", ROOT / "docs" / "attacks.md"],
    ids=lambda path: path.stem,
)
def test_every_command_and_option_it_names_exists(path: Path) -> None:
    import typer.main

    from cloven.cli import app

    program = typer.main.get_command(app)
    lines = re.findall(r"(?:^|\$  |# +)(?:cd \S+ && venv/bin/)?cloven (\w.*)$", code(path), re.MULTILINE)

    assert lines
    for line in lines:
        words = line.split("#")[0].split()
        command = found(program, words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_readme_names_every_command() -> None:
    import typer.main

    from cloven.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    assert set(re.findall(r"^cloven (\w+)", code(ROOT / "README.md"), re.MULTILINE)) == set(commands)
