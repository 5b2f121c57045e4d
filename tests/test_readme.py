"""The README's own code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_the_python_block_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}

    exec(block, names)

    assert "Interval(mean=" in capsys.readouterr().out
    assert tuple(getattr(names["logits"], "shape", ())) == (100, 10)


def test_every_command_and_option_it_names_exists() -> None:
    import typer.main

    from cloven.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    blocks = "".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))
    lines = re.findall(r"^cloven (\w+)(.*)$", blocks, re.MULTILINE)

    assert {name for name, _ in lines} == set(commands)
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest.split("#")[0])) <= known, name
