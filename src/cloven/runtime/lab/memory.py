"""Limit the memory of workers with the kernel's control groups, version 1 or 2.

Every limited worker has a group of its own; a process starts inside it, so that all its memory counts. Files in the
page cache count too, but the kernel drops them before it kills. A guard removes the groups when the laboratory's
process ends, for whatever reason; see guards.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cloven.errors import ClovenError, system_reason
from cloven.runtime.lab.guards import ready, start_memory_guard, stop

ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
"""A shell that moves itself into the group ``$0``, and becomes the command."""


@dataclass(frozen=True)
class MemoryControl:
    """The control groups of memory in which this process can create others.

    Attributes:
        parent: the folder of the group in which new ones are created.
        limit: the file of a group's limit.
        swap: the file that limits swap, and whether its limit includes memory.
        events: the file that counts killed processes.
    """

    parent: Path
    limit: str
    swap: tuple[str, bool]
    events: str


@dataclass(frozen=True)
class MemoryGroup:
    """The control group of a device, and its limit in bytes."""

    control: MemoryControl
    folder: Path
    limit: int

    def create(self) -> None:
        """Create the group with its limit; it cannot swap.

        Raises:
            OSError: if that fails.
        """
        self.folder.mkdir()
        (self.folder / self.control.limit).write_text(str(self.limit))
        name, includes_memory = self.control.swap
        if (self.folder / name).exists():  # the kernel counts swap
            (self.folder / name).write_text(str(self.limit if includes_memory else 0))

    @property
    def exceeded(self) -> bool:
        """Return whether the kernel has killed a process of the group because of its limit."""
        lines = (self.folder / self.control.events).read_text("ascii").splitlines()
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return a command that runs another one in the group."""
        return ["sh", "-c", ENTER, str(self.folder), *argv]


def memory_control(proc: Path = Path("/proc/self")) -> MemoryControl:
    """Return where this process can create control groups of memory.

    With version 1, that is its own group. With version 2, a group that contains processes cannot limit others: it
    is the nearest group above that passes on the control of memory.

    Raises:
        ClovenError: if there is no such place, or it cannot be written.
    """
    mounts = [line.split() for line in (proc / "mounts").read_text("utf-8").splitlines()]
    own = [line.split(":", 2) for line in (proc / "cgroup").read_text("utf-8").splitlines()]
    found = _version_1(mounts, own) or _version_2(mounts, own)
    if found is None:
        raise ClovenError(
            "a memory limit requires a control group (cgroup) of memory in which others can be created, and this "
            "system has none; run on the host instead of a container, or omit the limits"
        )
    probe = MemoryGroup(found, found.parent / f"cloven-{uuid4().hex[:8]}", 2**30)
    try:
        probe.create()
    except OSError as error:
        raise ClovenError(
            f"a memory limit requires a control group in {found.parent}, which cannot be created: "
            f"{system_reason(error)}"
        ) from error
    finally:
        with suppress(OSError):
            probe.folder.rmdir()
    return found


def _version_1(mounts: Sequence[Sequence[str]], own: Sequence[Sequence[str]]) -> MemoryControl | None:
    """Return this process's own group of memory."""
    roots = [Path(m[1]) for m in mounts if m[2] == "cgroup" and "memory" in m[3].split(",")]
    groups = [group for _, kinds, group in own if "memory" in kinds.split(",")]
    if not roots or not groups:
        return None
    swap = ("memory.memsw.limit_in_bytes", True)
    return MemoryControl(_inside(roots[0], groups[0]), "memory.limit_in_bytes", swap, "memory.oom_control")


def _version_2(mounts: Sequence[Sequence[str]], own: Sequence[Sequence[str]]) -> MemoryControl | None:
    """Return the nearest group from this process's upwards that passes on the control of memory."""
    roots = [Path(m[1]) for m in mounts if m[2] == "cgroup2"]
    groups = [group for number, _, group in own if number == "0"]
    if not roots or not groups:
        return None
    start = _inside(roots[0], groups[0])
    for folder in (start, *start.parents):
        controls = folder / "cgroup.subtree_control"
        if controls.exists() and "memory" in controls.read_text("ascii").split():
            return MemoryControl(folder, "memory.max", ("memory.swap.max", False), "memory.events")
        if folder == roots[0]:
            break
    return None


def _inside(root: Path, group: str) -> Path:
    """Return the folder of a group; in a container, its path may be that of the host, and the root is its own."""
    folder = root / group.lstrip("/")
    return folder if folder.is_dir() else root


@contextmanager
def memory_groups(limits: Mapping[str, int]) -> Iterator[Mapping[str, MemoryGroup]]:
    """Yield a control group for each device with a limit in bytes; remove them at the end, even if killed.

    Raises:
        ClovenError: if they cannot be created; at the end, if a process was killed because of its limit, with its
            device, before the errors that followed from it.
    """
    if not limits:
        yield {}
        return
    control, run = memory_control(), uuid4().hex[:8]
    groups = {
        device: MemoryGroup(control, control.parent / f"cloven-{run}-{i}", limit)
        for i, (device, limit) in enumerate(limits.items())
    }
    guard = start_memory_guard([group.folder for group in groups.values()])
    try:
        ready(guard)
        for group in groups.values():
            group.create()
        try:
            yield groups
        except ClovenError as error:
            raise ClovenError([*_exceeded(groups), *error.problems]) from error
        if killed := list(_exceeded(groups)):
            raise ClovenError(killed)
    finally:
        stop([guard], [])


def _exceeded(groups: Mapping[str, MemoryGroup]) -> Iterator[str]:
    for device, group in groups.items():
        if group.exceeded:
            yield f"{device} exceeded its memory limit of {group.limit / 1e6:g} MB"
