"""The helper processes of a lab: guards of namespaces and control groups, and relays of links."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloven.errors import ClovenError
from cloven.runtime.lab import relay
from cloven.runtime.lab.host import inside

Process = subprocess.Popen[str]

GUARD = """
exec 2> /dev/null
[ /proc/$$/ns/net -ef /proc/$PPID/ns/net ] && { echo 'no namespace of its own'; exit 1; }
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
echo 0 > /proc/sys/net/ipv4/ip_forward
sweep() {
    for p in /proc/[0-9]*; do
        [ $p != /proc/$$ ] && [ $p/ns/net -ef /proc/$$/ns/net ] && kill -KILL ${p#/proc/}
    done
}
echo ready
while read -r _; do :; done
sweep
sleep 0.05
sweep
"""
"""Keeps a namespace alive while its standard input is open, then kills every process in it.

The lab's process holds the other end of that pipe. When it ends, for whatever reason, the pipe closes: nothing must
be cleaned up by hand, and no thread must stay alive as with a parent-death signal. The kernel removes the namespace
and its devices with the last process. IPv6 is disabled to keep router solicitations off the links, and parties do
not forward packets.
"""


MEMORY_GUARD = """
echo ready
while read -r _; do :; done
for group in "$@"; do
    tries=0
    while [ -d "$group" ] && ! rmdir "$group" 2> /dev/null && [ $((tries += 1)) -lt 250 ]; do
        kill -KILL $(cat "$group/cgroup.procs") 2> /dev/null
        sleep 0.02
    done
done
"""
"""Removes control groups when its standard input closes, after killing every process in them."""


def start_guard() -> Process:
    """Start a guard in a new namespace; `ready` waits for it."""
    return _start(["unshare", "--net", "sh", "-c", GUARD])


def start_memory_guard(groups: Sequence[Path]) -> Process:
    """Start a guard of control groups, which may be created later; `ready` waits for it."""
    return _start(["sh", "-c", MEMORY_GUARD, "sh", *map(str, groups)])


def start_relay(pid: int, first: str, second: str, delay: float, rate: int | None, loss: float) -> Process:
    """Start a link with a delay or losses in the namespace of a process; `ready` waits for its two devices."""
    program = [sys.executable, "-I", "-S", relay.__file__]
    numbers = [repr(delay), str(rate or 0), repr(loss)]
    return _start(inside(pid, [*program, first, second, *numbers]))


def ready(process: Process) -> None:
    """Wait until a guard or relay is ready.

    Raises:
        ClovenError: if it fails; it quotes the output.
    """
    assert process.stdout
    said = process.stdout.readline()
    if said.strip() != "ready":
        said = " ".join((said + process.stdout.read()).split()[-30:])
        raise ClovenError(f"a helper process of the lab did not start: {said or 'it exited at once'}")


def stop(guards: Sequence[Process], others: Sequence[subprocess.Popen[Any]]) -> None:
    """Stop the guards, which kills everything in their namespaces, and wait for all processes."""
    for guard in guards:
        assert guard.stdin
        guard.stdin.close()
    for guard in guards:
        guard.wait()
    for other in others:
        other.kill()
        other.wait()
    for process in (*guards, *others):
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _start(argv: Sequence[str]) -> Process:
    """Start a process that a terminal's Ctrl-C does not reach: the lab stops it in the right order."""
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 (the command is ours)
        argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
