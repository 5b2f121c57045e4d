"""What keeps the simulated trusted half to itself: no network, a cap on memory, no way to write or start anything.

It shows that the process needs none of that, and catches a mistake that would let something out. It protects
nothing from who runs the machine: only real hardware does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NEWNET, NEWUSER = 0x40000000, 0x10000000
NO_NEW_PRIVILEGES, SET_FILTER, ALL_THREADS = 38, 1, 1
"""Of Linux: <linux/sched.h>, <linux/prctl.h> and <linux/seccomp.h>."""

LOAD, JUMP_EQUAL, JUMP_ANY, RETURN = 0x20, 0x15, 0x45, 0x06
"""Instructions of the classic Berkeley packet filter: load a word, jump if equal, jump if any bit, return."""
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1
"""What a filter says: go on, end the process, fail with EPERM."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Calls:
    """The numbers of one processor's system calls: those refused, and those whose flags are looked at.

    ``opening`` maps a call to which of its arguments holds the flags of open(2); ``seccomp`` sets a filter.
    """

    architecture: int
    seccomp: int
    refused: Sequence[int]
    opening: Mapping[int, int]


# Those of sockets but for what is received; execve, execveat, ptrace; all that make, rename, link, remove, truncate
# or change the owner or mode of files by name; mount; process_vm_readv and process_vm_writev; io_uring's; openat2;
# memfd_create; bpf; unshare; setns; pidfd_getfd.
X86_64 = Calls(
    0xC000003E,
    317,
    (41, 42, 43, 44, 46, 49, 50, 53, 307, 288, 59, 322, 101, 85, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88,
     266, 133, 259, 76, 90, 268, 92, 260, 165, 310, 311, 425, 426, 427, 437, 319, 321, 272, 308, 438),
    {2: 1, 257: 2},
)  # fmt: skip
AARCH64 = Calls(
    0xC00000B7,
    277,
    (198, 203, 202, 206, 211, 200, 201, 199, 269, 242, 221, 281, 117, 38, 276, 34, 37, 35, 36, 33, 45, 53, 54, 40,
     270, 271, 425, 426, 427, 437, 279, 280, 97, 268, 438),
    {56: 2},
)  # fmt: skip
PROCESSORS: Mapping[str, Calls] = {"x86_64": X86_64, "aarch64": AARCH64}
COMPATIBLE = 0x40000000
"""From this number on, x86-64's calls are those of another interface."""


def alone() -> str:
    """Leave the machine's network for one with nothing in it, while the process has one thread; in words."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (NEWNET, NEWNET | NEWUSER):
        if libc.unshare(flags) == 0:
            return "no network"
    return f"the machine's network could not be left ({os.strerror(ctypes.get_errno())})"


def capped(size: int) -> str:
    """Let the process's own memory not grow beyond so many bytes; in words."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold everything in clear
    return f"at most {size / 2**30:.1f} GiB of memory"


def shut() -> str:
    """Refuse from now on all system calls that write files, send, or start programs; in words."""
    calls = PROCESSORS.get(platform.machine())
    if sys.platform != "linux" or calls is None:
        return "no filter of system calls here"
    program = filter_of(calls)
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    none = ctypes.c_ulong(0)
    refused = libc.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), none, none, none)
    if not refused and not libc.syscall(calls.seccomp, SET_FILTER, ALL_THREADS, described):
        return "no files written, nothing sent or started"
    return f"no filter of system calls ({os.strerror(ctypes.get_errno())})"


def filter_of(calls: Calls) -> bytes:
    """The filter as the kernel reads it: 8 bytes an instruction (struct sock_filter)."""
    # What it looks at (struct seccomp_data): number at 0, architecture at 4, arguments from 16, 8 bytes each.
    lines = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, calls.architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for number, argument in calls.opening.items():
        lines += [
            (JUMP_EQUAL, 0, 4, number),
            (LOAD, 0, 0, 16 + 8 * argument),
            (JUMP_ANY, 0, 1, WRITING),
            (RETURN, 0, 0, REFUSE),
            (RETURN, 0, 0, ALLOW),
        ]
    for number in calls.refused:
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    if calls.architecture == X86_64.architecture:
        lines += [(0x35, 0, 1, COMPATIBLE), (RETURN, 0, 0, REFUSE)]
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
