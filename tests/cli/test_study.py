"""The command ``cloven study``: it resumes, names what failed, answers a changed file, and merges folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cloven.auditing.store import read_document, write_document
from tests.cli.conftest import Run

SMALL = """
[[models]]
name = "lenet5"

[axes]
queries = [{queries}]
strategies = ["vertical"]
attacks = [{attacks}]

[audit]
victims = 20
epochs = 1
judge = "none"
view = "paper"
"""


def write(queries: str = "60", attacks: str = '"nearest"', more: str = "") -> None:
    Path("study.toml").write_text(SMALL.format(queries=queries, attacks=attacks) + more)


def cells(folder: str | Path = "runs/study") -> dict[str, int]:
    """Return the finished cells in a folder, with the time at which each was written."""
    found = Path(folder).glob("audits/*/cells/*.json")
    return {path.name: path.stat().st_mtime_ns for path in found if not path.name.startswith(".")}


def status(cloven: Run, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cloven("study", "status", "study.toml", "--json", *options).out)
    return found


@pytest.mark.slow
def test_the_template_runs_as_it_is(cloven: Run, here: Path) -> None:
    assert cloven("study", "new", "study.toml").code == 0

    done = cloven("study", "run", "study.toml", "--jobs", "1")

    assert done.code == 0, done.err
    assert "2 audits: 2 done." in done.out
    assert len(list(here.glob("runs/study/audits/*/report.html"))) == 2


def test_a_template_is_valid_and_never_overwritten(cloven: Run, here: Path) -> None:
    cloven("study", "new", "study.toml")
    before = Path("study.toml").read_text()

    again = cloven("study", "new", "study.toml")

    assert (again.code, Path("study.toml").read_text()) == (2, before)
    assert "study.toml exists" in again.err
    assert status(cloven)["counts"]["planned"] == 2


def test_a_study_runs_once(cloven: Run, here: Path) -> None:
    write("60, 80")
    first = cloven("study", "run", "study.toml", "--jobs", "1")
    finished = cells()
    again = cloven("study", "run", "study.toml", "--jobs", "1")

    assert (first.code, again.code) == (0, 0), first.err
    assert cells() == finished
    assert len(finished) == 6
    assert "audit 1 of" not in again.err
    found = status(cloven)
    assert found["counts"]["done"] == 2
    assert found["cells"] == {
        "planned": 6, "done": 6, "failed": 0, "skipped": 0, "left": 0, "left_is_estimated": False,
    }  # fmt: skip
    assert found["seconds_left"] == 0


def test_a_killed_study_continues_and_redoes_nothing(cloven: Run, here: Path) -> None:
    write("60, 70", '"decoder", "nearest", "probe"')
    command = [sys.executable, "-m", "cloven.cli", "study", "run", "study.toml", "--jobs", "1"]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(cells()) < 4:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    finished, before = cells(), status(cloven)

    done = cloven("study", "run", "study.toml", "--jobs", "1")

    assert 4 <= len(finished) < 18
    assert before["counts"]["started"] + before["counts"]["done"] >= 1
    assert before["cells"]["left"] == 18 - len(finished)
    assert before["seconds_left"] > 0
    assert done.code == 0, done.err
    after = cells()
    assert len(after) == 18
    assert {name: after[name] for name in finished} == finished, "a finished cell was done again"


def test_a_changed_file_is_refused_with_its_differences_until_accepted(cloven: Run, here: Path) -> None:
    write()
    cloven("study", "run", "study.toml", "--jobs", "1")
    finished = cells()
    write("60, 80", '"nearest", "knn"', "[limits]\npixels = 1.0\n")

    refused = cloven("study", "run", "study.toml", "--jobs", "1")

    assert refused.code == 2
    for part in (
        "--accept-changes",
        "new audits: lenet5-",
        "attacks: knn new",
        "limits.pixels: None before, 1.0 now",
    ):
        assert part in refused.err
    assert cells() == finished
    assert len(status(cloven)["differences"]) == 4

    done = cloven("study", "run", "study.toml", "--jobs", "1", "--accept-changes")

    assert done.code == 0, done.err
    after = cells()
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 12
    record = read_document(Path("runs/study/study.json"), "")
    assert len(record["changes"]) == 1  # type: ignore[arg-type]
    assert status(cloven)["differences"] == []


def test_two_studies_are_compared(cloven: Run, here: Path) -> None:
    write()
    shutil.copy("study.toml", "same.toml")
    write("60, 80")

    assert cloven("study", "diff", "same.toml", "same.toml") == (0, "", "")
    differ = cloven("study", "diff", "same.toml", "study.toml")
    assert differ.code == 1
    assert "new audits: lenet5-digits-photos-80-queries-4-devices-" in differ.out


BROKEN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Broken:
    def fit(self, knowledge, *, generator, device):
        raise RuntimeError("out of luck")
"""


def test_a_cell_that_fails_is_named_and_does_not_stop_the_others(cloven: Run, here: Path) -> None:
    Path("broken_attack.py").write_text(BROKEN)
    write("60, 80", '"broken_attack:Broken", "nearest"')

    done = cloven("study", "run", "study.toml", "--jobs", "1", "--retries", "1")

    assert done.code == 1
    assert "RuntimeError: out of luck (broken_attack.py, line 7)" in done.err
    assert "Traceback" not in done.err
    found = status(cloven)
    assert found["counts"]["failed"] == 2
    assert (found["cells"]["done"], found["cells"]["failed"]) == (6, 6)
    assert [audit["attempts"] for audit in found["audits"]] == [2, 2]
    assert "seed 0" in found["audits"][0]["failed"][0]["cell"]

    finished = cells()
    Path("broken_attack.py").write_text(BROKEN.replace("RuntimeError", "OSError"))
    write("60, 80")
    assert cloven("study", "run", "study.toml", "--jobs", "1", "--accept-changes").code == 0
    assert cells() == finished


def test_an_audit_that_fails_is_named_and_does_not_stop_the_others(cloven: Run, here: Path) -> None:
    write()
    text = Path("study.toml").read_text().replace("[axes]", '[axes]\nauxiliary = ["folder:nowhere", "photos"]')
    Path("study.toml").write_text(text)

    done = cloven("study", "run", "study.toml", "--jobs", "1")

    assert done.code == 1
    assert "nowhere" in done.err
    assert len(cells()) == 3
    found = status(cloven)
    assert [audit["state"] for audit in found["audits"]] == ["failed", "done"]
    assert "nowhere" in found["audits"][0]["problems"][0]


def test_a_limit_that_is_exceeded_is_named(cloven: Run, here: Path) -> None:
    write(attacks='"knn"', more="[limits]\nlabels = 0.0\n")

    done = cloven("study", "run", "study.toml", "--jobs", "1")

    assert done.code == 1
    assert "above the limit of 0%" in done.err or "there is no verdict" in done.err


def test_data_that_has_changed_is_refused_before_any_work(cloven: Run, here: Path) -> None:
    Path("own").mkdir()
    Path("own/a.png").write_bytes(b"an image")
    write()
    text = Path("study.toml").read_text().replace("[axes]", '[axes]\nauxiliary = ["folder:own"]')
    Path("study.toml").write_text(text)
    table = cloven("study", "digests", "study.toml").out
    Path("study.toml").write_text(text + table)
    Path("own/a.png").write_bytes(b"another")

    refused = cloven("study", "run", "study.toml", "--jobs", "1")

    assert table.startswith('[digests]\n"folder:own" = "')
    assert refused.code == 2
    assert "folder:own has" in refused.err
    assert not cells()


@pytest.fixture
def shards(cloven: Run, here: Path) -> None:
    """Run a study in two folders, as two machines would."""
    write("60, 80")
    for number, folder in ((1, "a"), (2, "b")):
        done = cloven("study", "run", "study.toml", "--jobs", "1", "--shard", f"{number}/2", "--out", folder)
        assert done.code == 0, done.err


@pytest.mark.usefixtures("shards")
def test_shards_are_merged_to_a_study_that_is_done(cloven: Run) -> None:
    merged = cloven("study", "merge", "a", "b", "--out", "all")

    assert merged.code == 0, merged.err
    assert cells("all").keys() == cells("a").keys() | cells("b").keys()
    assert status(cloven, "--out", "all")["counts"]["done"] == 2
    assert cloven("study", "run", "study.toml", "--jobs", "1", "--out", "all").code == 0
    assert len(list(Path("all").glob("audits/*/report.html"))) == 2


@pytest.mark.usefixtures("shards")
def test_damaged_and_foreign_files_are_named_and_not_counted(cloven: Run) -> None:
    damaged, *_ = Path("a").glob("audits/*/cells/*.json")
    damaged.write_bytes(damaged.read_bytes()[:100])
    half, *_ = Path("b").glob("audits/*/cells/*.json")
    half.unlink()
    foreign = half.parent / "thesis.tex"
    foreign.write_text("years of work")

    merged = cloven("study", "merge", "a", "b", "--out", "all")

    assert merged.code == 1
    assert f"left out: cannot read {damaged}" in merged.err or f"left out: {damaged}" in merged.err
    assert f"left out: {foreign} is not part of an audit" in merged.err
    assert f"not counted: {half.with_suffix('.safetensors')} is half-written" in merged.err
    found = status(cloven, "--out", "all")
    assert (found["cells"]["done"], found["cells"]["left"], found["counts"]["done"]) == (4, 2, 0)
    assert cloven("study", "run", "study.toml", "--jobs", "1", "--out", "all").code == 0
    assert len(cells("all")) == 6


@pytest.mark.usefixtures("shards")
def test_what_is_damaged_in_one_folder_is_taken_from_another(cloven: Run) -> None:
    shutil.copytree("a", "copy")
    (audit,), (other,) = Path("a/audits").iterdir(), Path("b/audits").iterdir()
    damaged = [audit / name for name in ("planned.json", "subject.json", "summary.json")]
    for path in damaged:
        path.write_bytes(path.read_bytes().replace(b"nearest", b"farthest").replace(b"lenet5", b"lenet6"))
    tensors, *_ = audit.glob("cells/*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    foreign, *_ = other.glob("cells/*.json")
    for end in (".json", ".safetensors"):
        shutil.copy(foreign.with_suffix(end), audit / "cells")

    merged = cloven("study", "merge", "a", "b", "copy", "--out", "all")

    assert merged.code == 1
    for path in (*damaged, tensors):
        assert f"left out: {path} was edited or damaged" in merged.err
    assert f"not counted: {audit / 'cells' / foreign.name} is not a cell of the study as it is now" in merged.err
    assert status(cloven, "--out", "all")["counts"]["done"] == 2
    assert cells("all").keys() == cells("copy").keys() | cells("b").keys()
    assert read_document(Path("all", *audit.parts[1:], "subject.json"), "")["model"] == "lenet5"


@pytest.mark.usefixtures("shards")
def test_different_numbers_for_one_cell_are_refused(cloven: Run) -> None:
    shutil.copytree("a", "c")
    path, *_ = sorted(Path("c").glob("audits/*/cells/*.json"))
    cell = read_document(path, "")
    write_document(path, cell | {"kappa": 0.123})

    refused = cloven("study", "merge", "a", "b", "c", "--out", "all")

    assert refused.code == 2
    assert f"cell {path.stem[:8]} (nearest, seed 0): kappa is" in refused.err
    assert "0.123 in c" in refused.err
    assert not Path("all").exists()


@pytest.mark.usefixtures("shards")
def test_folders_of_different_studies_are_not_merged(cloven: Run) -> None:
    write("60", '"knn"')
    cloven("study", "run", "study.toml", "--jobs", "1", "--out", "other")
    Path("empty").mkdir()

    refused = cloven("study", "merge", "a", "other", "empty", "--out", "all")

    assert refused.code == 2
    assert "other holds another study than a" in refused.err
    assert "attacks: knn new" in refused.err
    assert "empty holds no study.json" in refused.err


def test_a_folder_with_other_things_is_refused(cloven: Run, here: Path) -> None:
    write()
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("years of work")

    done = cloven("study", "run", "study.toml", "--out", "run")

    assert done.code == 2
    assert "run is not empty and holds no study" in done.err


def test_options_of_a_cluster_are_checked_together(
    cloven: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    refused = cloven("study", "run", "study.toml", "--on", "spark", "--jobs", "2", "--gpus-per-cell", "0.5")

    assert refused.code == 2
    for part in ("--on excludes --jobs", "--on is 'spark'; expected ray", "the study's device is 'cpu'"):
        assert part in refused.err
    refused = cloven("study", "run", "study.toml", "--gpus-per-cell", "0.5")
    assert (refused.code, "--gpus-per-cell requires --on" in refused.err) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = cloven("study", "run", "study.toml", "--on", "ray")
    assert refused.code == 2
    assert "ray is not installed; it comes with an extra: pip install 'cloven[ray]'" in refused.err
