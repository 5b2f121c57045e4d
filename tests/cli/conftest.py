"""Fixtures that run the command in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cloven import cli
from cloven.cli import models
from cloven.zoo.datasets import KINDS

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.plan import ModelSpec


class Done(NamedTuple):
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]

_READ_ONCE = {name: replace(KINDS[name], read=cache(KINDS[name].read)) for name in ("digits", "photos")}
"""The sets that libraries bring: reading them takes longer than what most tests of the command test."""


@pytest.fixture
def cloven(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``cloven ARGS`` and returns its output."""
    for name, kind in _READ_ONCE.items():
        monkeypatch.setitem(KINDS, name, kind)

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cloven", *map(str, args)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


_GRAPHS: dict[str, Graph] = {}
_captured_anew = models.graph_of


@pytest.fixture(autouse=True)
def _lenet5_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture LeNet-5 with random weights once for all tests, as it takes longer than the tests themselves."""

    def graph(spec: ModelSpec) -> Graph:
        if spec.name != "lenet5" or spec.weights:
            return _captured_anew(spec)
        key = repr(spec)
        if key not in _GRAPHS:
            _GRAPHS[key] = _captured_anew(spec)
        return _GRAPHS[key]

    monkeypatch.setattr(models, "graph_of", graph)
