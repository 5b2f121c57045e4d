"""Check the machine's privileges, tools and kernel for the lab, and run those tools."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from shutil import which

from cloven.errors import ClovenError

TOOLS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
"""Each tool with the package that provides it."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Each capability with its bit in ``CapEff``; see capabilities(7)."""
TUN = Path("/dev/net/tun")
SHAPER = ["tbf", "rate", "1mbit", "burst", "1600", "limit", "10000"]


def check(rate: bool, relay: bool) -> None:
    """Check that this machine can create the requested links.

    Args:
        rate: whether any link has a bandwidth.
        relay: whether any link has a delay or losses.

    Raises:
        ClovenError: lists every requirement that is not met.
    """
    if not sys.platform.startswith("linux"):
        raise ClovenError(f"the lab requires Linux network namespaces; this system is {sys.platform}")
    problems = [*_rights(), *_tools()] or _kernel(rate)
    if relay and not TUN.exists() and (problems or not has_netem()):
        problems.append(f"{TUN} does not exist, but a delay or a loss requires it; load the module: modprobe tun")
    if problems:
        raise ClovenError(problems)


@cache
def has_netem() -> bool:
    """Return whether the kernel can delay packets (``tc qdisc ... netem``)."""
    return _try_qdisc(["netem", "delay", "1ms"]) is None


def run(argv: Sequence[str], lines: Iterable[str] = ()) -> None:
    """Run a tool with these lines on its standard input.

    Raises:
        ClovenError: if it fails; it quotes the output.
    """
    problem = _answer(argv, "\n".join(lines))
    if problem is not None:
        raise ClovenError(f"cannot create the lab's network: {' '.join(argv)} failed: {problem}")


def inside(pid: int, argv: Sequence[str]) -> list[str]:
    """Return a command that runs another one in the network namespace of a process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *argv]


def _rights() -> list[str]:
    status = Path("/proc/self/status").read_text("ascii", errors="replace")
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if not lacking:
        return []
    return [f"the lab creates network namespaces, which requires root; missing: {', '.join(lacking)}; use sudo"]


def _tools() -> list[str]:
    return [f"{tool} is not found; install {package}" for tool, package in TOOLS.items() if which(tool) is None]


def _kernel(rate: bool) -> list[str]:
    namespace = _answer(["unshare", "--net", "true"])
    if namespace is not None:
        return [f"cannot create network namespaces, perhaps because this is a container: {namespace}"]
    shaper = _try_qdisc(SHAPER) if rate else None
    return [] if shaper is None else [f"a bandwidth requires the kernel's tbf (module sch_tbf): {shaper}"]


def _try_qdisc(words: Sequence[str]) -> str | None:
    """Try a queueing discipline in a temporary namespace; return the error, if any."""
    return _answer(["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", *words])


def _answer(argv: Sequence[str], text: str = "") -> str | None:
    """Run a tool; return its output if it fails, else None."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)  # noqa: S603 (ours)
    if done.returncode == 0:
        return None
    return " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
