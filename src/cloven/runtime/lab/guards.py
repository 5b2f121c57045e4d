"""The two kinds of process behind a lab: a guard for each namespace, a relay for each delayed link."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
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
"""Keeps a namespace while its standard input is open, which the lab's process holds; then kills all that is in it.

The end of that process, however it comes, closes the pipe: nothing needs cleaning by hand, and no thread has to
stay alive as with a parent-death signal. With the last process the kernel removes the namespace and its devices.
Packets of IPv6 (router solicitations) are not to be on the links, and no party passes on what is not for it.
"""


def start_guard() -> Process:
    """Make a namespace; `ready` waits for it. Its process is the guard's."""
    return _start(["unshare", "--net", "sh", "-c", GUARD])


def start_relay(pid: int, first: str, second: str, delay: float, rate: int | None) -> Process:
    """Make a delayed link in the namespace of a process; `ready` waits for its two devices."""
    program = [sys.executable, "-I", "-S", relay.__file__]
    return _start(inside(pid, [*program, first, second, repr(delay), str(rate or 0)]))


def ready(process: Process) -> None:
    """Wait until a guard or relay is there.

    Raises:
        ClovenError: what it said instead.
    """
    assert process.stdout
    said = process.stdout.readline()
    if said.strip() != "ready":
        said = " ".join((said + process.stdout.read()).split()[-30:])
        raise ClovenError(f"the lab's network cannot be made: {said or 'a process ended before it began'}")


def stop(guards: Sequence[Process], others: Sequence[subprocess.Popen[Any]]) -> None:
    """Let the guards end, which ends everything in their namespaces, and wait for all."""
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
    """Start a process that a terminal's Ctrl-C does not reach: the lab ends it, in order."""
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 (our own words)
        argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
