"""Every code block of the README and of the documentation: it runs, or at least it is valid."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cloven import cli
from cloven.auditing.study_file import read_study
from cloven.cli import app
from cloven.cost.cluster import ClusterFile
from cloven.documents import read_toml_document
from cloven.enclave.dcap import read_policy
from cloven.files import read_toml
from cloven.partition.plan import Plan
from tests.docs.pages import ALL, PAGES, ROOT, Block, blocks

LANGUAGES = {"python", "shell", "toml", "yaml", "dockerfile", "text"}
READ: dict[str, Callable[[Path], object]] = {
    "plan.toml": Plan.load,
    "cluster.toml": partial(read_toml_document, ClusterFile),
    "policy.toml": read_policy,
    "study.toml": read_study,
}
PROGRAM = typer.main.get_command(app)


def of(*languages: str) -> pytest.MarkDecorator:
    """The blocks of some languages, as parameters of a test."""
    chosen = [block for block in ALL if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.place)


def parsed(command: Any, name: str, words: Sequence[str]) -> None:
    """Parse a command line as the program does, through groups of commands."""
    if commands := getattr(command, "commands", None):
        assert words, f"{name} has no command"
        assert words[0] in commands, f"{name} has no command {words[0]}"
        parsed(commands[words[0]], f"{name} {words[0]}", words[1:])
    else:
        command.make_context(name, list(words))


def test_every_block_is_of_a_known_language() -> None:
    assert [block.place for block in ALL if block.language not in LANGUAGES] == []


@of("yaml")
def test_workflows_are_valid(block: Block) -> None:
    (job,) = yaml.safe_load(block.text)["jobs"].values()

    assert all("run" in step or "uses" in step for step in job["steps"])


@of("shell", "yaml")
def test_commands_are_valid(block: Block) -> None:
    for words in block.commands():
        parsed(PROGRAM, "cloven", words)


@pytest.mark.parametrize("unit", sorted((ROOT / "docs" / "systemd").iterdir()), ids=lambda path: path.name)
def test_units_start_valid_commands(unit: Path) -> None:
    (start,) = re.findall(r"^ExecStart=\S+/cloven (.*)$", unit.read_text("utf-8"), re.MULTILINE)

    parsed(PROGRAM, "cloven", start.split())


def test_every_target_of_make_exists() -> None:
    shell = "\n".join(block.text for block in ALL if block.language == "shell")
    targets = set(re.findall(r"^make ([\w-]+)", shell, re.MULTILINE))

    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_the_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text("utf-8"))

    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@of("toml")
def test_files_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(block.text)
    READ.get(block.title, read_toml)(path)


def test_the_pages_name_every_command() -> None:
    named = {words[0] for block in ALL if block.language == "shell" for words in block.commands() if words}

    assert set(PROGRAM.commands) <= named  # type: ignore[attr-defined]


def runs(page: Path) -> bool:
    """Return whether anything on a page can be executed."""
    return any(block.language == "python" or block.runs for block in blocks(page))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runs(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_page_runs(
    page: Path, here: Path, start: Callable[[Sequence[str]], None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Execute its Python blocks and marked commands in order and compare what they print with the text below."""
    monkeypatch.syspath_prepend(here)
    before = set(sys.modules)
    names: dict[str, object] = {"__name__": "page"}
    printed = ""
    for block in blocks(page):
        if block.title:
            (here / block.title).write_text(block.text)
            sys.modules.pop(Path(block.title).stem, None)  # another test may have imported one of that name
        if block.language == "python" and not block.title:
            exec(compile(block.text, block.place, "exec", dont_inherit=True), names)
            printed = capsys.readouterr().out
        elif block.language == "shell":
            for words in block.commands() if block.runs else ():
                if words[0] == "worker":
                    start(words)
                else:
                    execute(words, monkeypatch)
            printed = capsys.readouterr().out if block.runs else ""
        elif block.language == "text" and printed:
            for line in filter(None, map(str.strip, block.text.splitlines())):
                assert line == "..." or line in printed, block.place
    for name in set(sys.modules) - before:
        if str(here) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def start() -> Iterator[Callable[[Sequence[str]], None]]:
    """Return a function that starts a worker in a process of its own, which ends with the page."""
    started: list[subprocess.Popen[str]] = []

    def begin(words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "cloven.cli", *words]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        log = started[-1].stderr
        assert log is not None
        assert any('"ready"' in line for line in log), " ".join(words)

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


def execute(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it takes longer to start others than to do these small jobs."""
    alone = ("--jobs", "1") if words[0] == "audit" or words[:2] == ["study", "run"] else ()
    monkeypatch.setattr(sys, "argv", ["cloven", *words, *alone])
    code: object = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    assert not code, " ".join(words)
