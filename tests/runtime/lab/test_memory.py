"""Memory limits: where control groups can be created, and a worker that exceeds its limit is named."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.lab import laboratory
from cloven.runtime.lab.memory import MemoryControl, MemoryGroup, memory_control, memory_groups
from tests.runtime.lab.programs import root
from tests.runtime.lab.test_laboratory import experiment

MB = 10**6


def _lacking() -> str:
    try:
        memory_control()
    except ClovenError as error:
        return str(error)
    return ""


grouped = pytest.mark.skipif(bool(_lacking()), reason=_lacking())

FILL = "import sys; print(len(b'x' * int(sys.argv[1])), flush=True)"


def fill(group: MemoryGroup, size: int) -> int:
    """Return the exit status of a process of a group that fills some memory."""
    command = group.command([sys.executable, "-I", "-S", "-c", FILL, str(size)])
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


@grouped
def test_only_the_process_that_exceeds_its_limit_is_killed_and_named() -> None:
    groups: dict[str, MemoryGroup] = {}

    def run() -> None:
        with memory_groups({"edge0": 60 * MB, "edge1": 200 * MB}) as made:
            groups.update(made)
            assert [fill(group, 100 * MB) for group in made.values()] == [-signal.SIGKILL, 0]
            raise ClovenError("edge0 did not answer")

    with pytest.raises(ClovenError) as raised:
        run()

    assert raised.value.problems == ("edge0 exceeded its memory limit of 60 MB", "edge0 did not answer")
    assert not any(group.folder.exists() for group in groups.values())


@grouped
def test_within_the_limits_nothing_is_said_and_nothing_remains() -> None:
    with memory_groups({"edge0": 200 * MB}) as groups:
        assert fill(groups["edge0"], 10 * MB) == 0

    assert not groups["edge0"].folder.exists()


HOLD = """
import subprocess, time
from cloven.runtime.lab.memory import memory_groups
with memory_groups({"edge0": 2 * 10**8}) as groups:
    subprocess.Popen(groups["edge0"].command(["sleep", "1000"]), stdout=-3)
    while not (groups["edge0"].folder / "cgroup.procs").read_text():
        time.sleep(0.01)
    print(groups["edge0"].folder, flush=True)
    time.sleep(1000)
"""


@grouped
def test_nothing_remains_of_the_groups_if_the_laboratory_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout
        folder = Path(lab.stdout.readline().strip())
        assert folder.is_dir()
        lab.kill()

    until = time.monotonic() + 5
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not folder.exists()


@root
@grouped
def test_a_worker_that_exceeds_its_limit_is_named_before_what_follows_from_it(tmp_path: Path) -> None:
    with pytest.raises(ClovenError) as raised:
        laboratory.run(experiment(tmp_path / "lab", memory={"edge1": 30 * MB}))

    assert raised.value.problems[0] == "edge1 exceeded its memory limit of 30 MB"
    assert raised.value.problems[1].startswith("the worker of edge1 did not start")


# --- where groups can be created, in folders that imitate the kernel's ------------------------------------------


def process(tmp_path: Path, mount: str, group: str) -> Path:
    """Return a folder like /proc/self."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mounts").write_text(f"proc /proc proc rw 0 0\n{mount}\n")
    (proc / "cgroup").write_text(group)
    return proc


def version_2(tmp_path: Path, passed_on: dict[str, str]) -> Path:
    """Return a process in the group ``a/b`` of version 2; the groups pass on these controls."""
    for name, controls in passed_on.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controls)
    return process(tmp_path, f"cgroup2 {tmp_path}/cgroup cgroup2 rw 0 0", "0::/a/b\n")


def test_version_2_creates_groups_where_the_control_of_memory_is_passed_on(tmp_path: Path) -> None:
    proc = version_2(tmp_path, {"": "cpu memory", "a": "cpu memory pids", "a/b": ""})

    control = memory_control(proc)

    assert (control.parent, control.limit, control.events) == (
        tmp_path / "cgroup" / "a",
        "memory.max",
        "memory.events",
    )


def test_version_2_limits_memory_without_swap_and_counts_what_was_killed(tmp_path: Path) -> None:
    group = MemoryGroup(memory_control(version_2(tmp_path, {"a/b": "memory"})), tmp_path / "group", 200 * MB)
    group.create()

    assert (group.folder / "memory.max").read_text() == str(200 * MB)
    for killed in (0, 2):
        (group.folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 7\noom {killed}\noom_kill {killed}\n")
        assert group.exceeded == bool(killed)


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    mount = f"cgroup {tmp_path}/cgroup cgroup rw,memory 0 0"

    control = memory_control(process(tmp_path, mount, "5:cpu:/x\n4:memory:/docker/of-the-host\n"))

    assert (control.parent, control.limit) == (tmp_path / "cgroup", "memory.limit_in_bytes")
    assert control.swap == ("memory.memsw.limit_in_bytes", True)


@pytest.mark.parametrize(
    "passed_on", [{"": "cpu", "a/b": ""}, {"a/b": "cpu memory_other"}], ids=["none", "another control"]
)
def test_without_the_control_of_memory_a_limit_is_refused(tmp_path: Path, passed_on: dict[str, str]) -> None:
    with pytest.raises(ClovenError, match=r"requires a control group .* this system has none; run on the"):
        memory_control(version_2(tmp_path, passed_on))


def test_a_group_that_cannot_be_created_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: MemoryGroup) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(MemoryGroup, "create", fail)
    with pytest.raises(ClovenError, match=r"group in .*/cgroup/a/b, which cannot be created: Permission"):
        memory_control(version_2(tmp_path, {"a/b": "memory"}))


def test_a_missing_control_group_is_among_the_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> MemoryControl:
        raise ClovenError("no control group")

    monkeypatch.setattr(laboratory, "memory_control", none)
    made = experiment(tmp_path / "lab", memory={"edge7": 0})
    found = laboratory.problems(made.plan, made.folder, made, tap=False)

    assert found[-3:] == [
        "no control group",
        "memory of edge7: the plan has no such device; its devices are edge0, edge1",
        "memory of edge7: expected a positive number of bytes, got 0",
    ]
