"""Whole audits: their files, resuming after they were killed, and cells that do not depend on each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Run, cloven

__all__ = ["cloven"]

SMALL = (
    "audit",
    "--attacks",
    "decoder",
    "--judge",
    "none",
    "--queries",
    "80",
    "--victims",
    "40",
    "--epochs",
    "1",
    "--view",
    "paper",
)
TIMES = ("training", "wall_seconds")


def findings(folder: Path) -> list[dict[str, Any]]:
    """Return the findings of a run without times."""
    summary = json.loads((folder / "summary.json").read_text())
    return [{k: v for k, v in finding.items() if k not in TIMES} for finding in summary["findings"]]


def finished(folder: Path) -> dict[str, int]:
    """Return the finished cells, with the time at which each was written."""
    return {p.name: p.stat().st_mtime_ns for p in (folder / "cells").glob("*.json") if not p.name.startswith(".")}


def test_a_run_writes_findings_with_baselines_and_intervals_and_a_report(cloven: Run, here: Path) -> None:
    done = cloven(*SMALL, "--strategies", "vertical,data", "--jobs", "1", "--out", "run", "--json")
    summary = json.loads((here / "run" / "summary.json").read_text())

    assert done.code == 0, done.err
    assert json.loads(done.out) == {name: value for name, value in summary.items() if name != "digest"}
    assert summary["schema_version"] == 6
    assert summary["model_accuracy"] >= 0.9
    assert [f["strategy"] for f in summary["findings"]] == ["vertical"] * 3 + ["data"] * 4
    for finding in summary["findings"]:
        assert set(finding) >= set(
            "key strategy devices link view crosses layers share observation_bytes attack pairs victims "
            "agreement kappa ssim psnr identified baselines leakage held_out".split()
        )
        assert finding["ssim"]["low"] <= finding["ssim"]["mean"] <= finding["ssim"]["high"]
        assert finding["agreement"]["low"] < finding["agreement"]["high"]
        assert set(finding["baselines"]) == {
            "auxiliary mean", "domain mean", "black", "grey", "modal class", "shuffled pairs",
        }  # fmt: skip
        best = max(f["ssim"] for f in finding["baselines"].values() if f["ssim"] is not None)
        expected = max(0.0, (finding["ssim"]["mean"] - best) / (1 - best))
        assert finding["leakage"]["ssim"] == pytest.approx(expected)
    assert {o["claim"] for o in summary["orderings"]} == {"C3", "C4"}
    assert (here / "run" / "report.html").stat().st_size > 10_000
    assert {p.name for p in (here / "run").iterdir()} == {
        ".lock", "cells", "config.json", "planned.json", "report.html", "subject.json", "summary.json",
    }  # fmt: skip


def test_the_same_command_again_redoes_nothing(cloven: Run, here: Path) -> None:
    command = (*SMALL, "--strategies", "vertical", "--jobs", "1", "--out", "run")
    cloven(*command)
    cells, first = finished(here / "run"), findings(here / "run")

    assert cloven(*command).code == 0
    assert finished(here / "run") == cells
    assert findings(here / "run") == first


@pytest.mark.slow
def test_findings_are_the_same_alone_beside_others_and_on_two_processes(cloven: Run, here: Path) -> None:
    cloven(*SMALL, "--strategies", "vertical,data", "--jobs", "2", "--out", "two")
    cloven(*SMALL, "--strategies", "vertical,data", "--jobs", "1", "--out", "one")
    cloven(*SMALL, "--strategies", "data", "--jobs", "1", "--out", "alone")

    assert findings(here / "two") == findings(here / "one")
    assert findings(here / "alone") == findings(here / "one")[3:]


def test_another_configuration_is_refused_with_what_differs(cloven: Run, here: Path) -> None:
    cloven(*SMALL, "--strategies", "vertical", "--jobs", "1", "--out", "run")
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*")}

    done = cloven(*SMALL, "--strategies", "vertical", "--seed", "3", "--out", "run")

    assert done.code == 2
    assert "run holds an audit with another configuration; give another folder (--out)" in done.err
    assert "seed: 0 in the folder, 3 now" in done.err
    assert {p: p.stat().st_mtime_ns for p in here.rglob("*")} == before


def test_a_folder_with_other_things_in_it_is_refused(cloven: Run, here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("years of work")

    done = cloven(*SMALL, "--out", "run")

    assert done.code == 2
    assert "run is not empty and holds no audit" in done.err
    assert [p.name for p in (here / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_audit_goes_on_where_it_was_and_finds_the_same(cloven: Run, here: Path, jobs: int) -> None:
    options = ("--strategies", "vertical,horizontal", "--devices", "2", "--jobs", str(jobs))
    cloven(*SMALL, *options, "--out", "whole")
    command = [sys.executable, "-m", "cloven.cli", *SMALL, *options, "--out", "killed"]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(finished(here / "killed")) < 3:
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    time.sleep(1.0)  # its workers notice that they are orphans
    cells = finished(here / "killed")
    total = len(finished(here / "whole"))
    assert 3 <= len(cells) < total

    done = cloven(*SMALL, *options, "--out", "killed")

    assert done.code == 0, done.err
    after = finished(here / "killed")
    assert {name: after[name] for name in cells} == cells, "a finished cell was done again"
    assert len(after) == total
    assert findings(here / "killed") == findings(here / "whole")
    assert not list((here / "killed").rglob("*.part")), "half-written files were left"


def test_the_workers_of_a_killed_audit_end(here: Path) -> None:
    command = [sys.executable, "-m", "cloven.cli", *SMALL, "--jobs", "2", "--epochs", "400", "--out", "run"]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(children := workers(victim.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()

    while time.monotonic() < deadline and any(alive(pid) for pid in children):
        time.sleep(0.1)
    assert not [pid for pid in children if alive(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_audit_says_that_it_can_go_on(here: Path, jobs: int) -> None:
    options = ("--jobs", str(jobs), "--epochs", "8", "--out", "run")
    command = [sys.executable, "-m", "cloven.cli", *SMALL, *options]
    victim = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    while not finished(here / "run"):
        assert victim.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=60)

    assert victim.returncode == 130
    assert err.splitlines()[-1] == "stopped; what is finished is kept in run: the same command goes on from there"
    assert "Traceback" not in err
    assert {p.name for p in (here / "run").iterdir()} == {"cells", "config.json"}


def workers(leader: int) -> list[int]:
    """Return the workers of a process that leads a session: its grandchildren."""
    done = subprocess.run(
        ["ps", "-o", "pid=", "-o", "ppid=", "-s", str(leader)], capture_output=True, text=True, check=False
    )
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [pid for pid, parent in pairs if leader not in (pid, parent)]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.2, "holds"), (-0.3, -0.1, "fails"), (-0.1, 0.2, "undecided"), (0, 0, "undecided")],
)
def test_an_ordering_is_what_its_interval_shows(low: float, high: float, expected: str) -> None:
    from cloven.auditing.aggregate import shows
    from cloven.score.intervals import Interval

    assert shows(Interval((low + high) / 2, low, high)) == expected


def test_threads_are_set_back_after_an_audit() -> None:
    from cloven.threads import one_thread

    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
