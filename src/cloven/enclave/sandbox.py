"""The sandbox of the simulated trusted half: no network, no capabilities, limited memory, few system calls.

The filter lists the allowed system calls and refuses all others: the process can read files, compute, start
threads, and write to inherited descriptors (messages, log, hand-over). It cannot open a file for writing; change,
create or remove one by name; change its attributes; send to a socket, a message queue or another process; share
memory; store a key in the kernel; or start a process.

The sandbox shows that the trusted half does not need these calls, and catches mistakes that would leak data. It
does not protect against the operator of the machine: only real hardware does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

NEWNET, NEWUSER = 0x40000000, 0x10000000
NAMESPACES = 0x7E020080
"""The flags of clone(2) that create a namespace: time, mount, cgroup, uts, ipc, user, pid, net."""
THREAD = 0x10000
NO_NEW_PRIVILEGES, SET_FILTER, ALL_THREADS = 38, 1, 1
BOUNDING_DROP, AMBIENT, CLEAR_ALL = 24, 47, 4
CAPABILITY_VERSION = 0x20080522
"""From <linux/sched.h>, <linux/prctl.h>, <linux/seccomp.h> and <linux/capability.h>."""

LOAD, JUMP_EQUAL, JUMP_ANY, RETURN = 0x20, 0x15, 0x45, 0x06
"""Instructions of the classic Berkeley packet filter: load a word, jump if equal, jump if any bit, return."""
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
"""The verdicts of a filter: allow the call, kill the process, fail with the error number that is added."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DUPLICATE, GET_DESCRIPTOR_FLAGS, SET_DESCRIPTOR_FLAGS, GET_FLAGS, DUPLICATE_CLOSED = 0, 1, 2, 3, 1030
GET_TERMINAL, GET_WINDOW, CLOSE_ON_EXEC, OPEN_ON_EXEC = 0x5401, 0x5413, 0x5451, 0x5450
SET_NAME, GET_NAME, SET_DUMPABLE = 15, 16, 4

Instruction = tuple[int, int, int, int]
"""Code, lines to skip if true, lines to skip if false, and a number (struct sock_filter)."""


@dataclass(frozen=True)
class Architecture:
    """The numbering of a processor's system calls: its audit architecture, and its column in `CALLS`."""

    architecture: int
    column: int


PROCESSORS: Mapping[str, Architecture] = {
    "x86_64": Architecture(0xC000003E, 0),
    "aarch64": Architecture(0xC00000B7, 1),
}

# Numbers on x86-64 and on aarch64 (asm/unistd_64.h and asm-generic/unistd.h); None if the call does not exist.
CALLS: Mapping[str, tuple[int | None, int | None]] = {
    # Open descriptors.
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "write": (1, 64),
    "writev": (20, 66),
    "pwrite64": (18, 68),
    "ftruncate": (77, 46),
    "lseek": (8, 62),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fadvise64": (221, 223),
    # Files, without changing them.
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    # Memory.
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "msync": (26, 227),
    "mincore": (27, 232),
    "brk": (12, 214),
    "get_mempolicy": (239, 236),
    # Threads, waiting and signals of this process.
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "getcpu": (309, 168),
    "arch_prctl": (158, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    # Information about the process and the machine.
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    # Calls that are allowed for some arguments only, see `filter_of`.
    "open": (2, None),
    "openat": (257, 56),
    "clone": (56, 220),
    "clone3": (435, 435),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "tgkill": (234, 131),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
}
SECCOMP = (317, 277)


def leave_network() -> str:
    """Move to an empty network namespace, while the process has one thread; return a description of the result."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (NEWNET, NEWNET | NEWUSER):
        if libc.unshare(flags) == 0:
            return "no network"
    return f"still on the machine's network ({os.strerror(ctypes.get_errno())})"


def drop_capabilities() -> str:
    """Drop all capabilities, even root's, while the process has one thread; return a description of the result."""
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    # Without CAP_SETPCAP the bounding set remains; it has no effect on a process that executes no other program.
    next(number for number in count() if libc.prctl(BOUNDING_DROP, ctypes.c_ulong(number), none, none, none))
    libc.prctl(AMBIENT, ctypes.c_ulong(CLEAR_ALL), none, none, none)
    if libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)):
        return f"capabilities could not be dropped ({os.strerror(ctypes.get_errno())})"
    return "no capabilities"


def limit_memory(size: int) -> str:
    """Limit the process's own memory to `size` bytes; return a description of the result."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain everything in clear
    if sys.platform == "linux":  # the limit does not apply to core handlers such as systemd-coredump
        ctypes.CDLL(None).prctl(SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4)
    return f"at most {size / 2**30:.1f} GiB of memory"


def restrict_calls() -> str:
    """Refuse all system calls except those of `CALLS`, for all threads; return a description of the result."""
    processor = PROCESSORS.get(platform.machine())
    if sys.platform != "linux" or processor is None:
        return "no system call filter on this platform"
    program = filter_of(processor, os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    none = ctypes.c_ulong(0)
    refused = libc.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), none, none, none)
    if not refused and not libc.syscall(SECCOMP[processor.column], SET_FILTER, ALL_THREADS, described):
        return "no files written, nothing sent or started"
    return f"no system call filter ({os.strerror(ctypes.get_errno())})"


def filter_of(processor: Architecture, process: int) -> bytes:
    """Return the filter in the kernel's format: 8 bytes per instruction.

    Args:
        processor: the processor whose calls are filtered; a call of another architecture kills the process.
        process: the process id, the only one that may be signalled.
    """
    refuse = FAIL | errno.EPERM
    decided: Mapping[str, Sequence[Instruction]] = {
        "open": [*argument(1), (JUMP_ANY, 0, 1, WRITING), (RETURN, 0, 0, refuse), (RETURN, 0, 0, ALLOW)],
        "openat": [*argument(2), (JUMP_ANY, 0, 1, WRITING), (RETURN, 0, 0, refuse), (RETURN, 0, 0, ALLOW)],
        "clone": [
            *argument(0),
            (JUMP_ANY, 0, 2, THREAD),
            (JUMP_ANY, 1, 0, NAMESPACES),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, refuse),
        ],
        # Its flags are in memory, which a filter cannot read; after ENOSYS, libc falls back to clone.
        "clone3": [(RETURN, 0, 0, FAIL | errno.ENOSYS)],
        "prctl": among(0, SET_NAME, GET_NAME),
        "prlimit64": among(0, 0),
        "tgkill": among(0, process),
        "fcntl": among(1, DUPLICATE, GET_DESCRIPTOR_FLAGS, SET_DESCRIPTOR_FLAGS, GET_FLAGS, DUPLICATE_CLOSED),
        "ioctl": among(1, GET_TERMINAL, GET_WINDOW, CLOSE_ON_EXEC, OPEN_ON_EXEC),
    }
    # The filter's input (struct seccomp_data): number at 0, architecture at 4, arguments from 16, 8 bytes each.
    lines = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, processor.architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for name, numbers in CALLS.items():
        number = numbers[processor.column]
        if number is not None:
            rule = decided.get(name, [(RETURN, 0, 0, ALLOW)])
            lines += [(JUMP_EQUAL, 0, len(rule), number), *rule]
    # The x32 interface of x86-64 has other numbers, which are refused here too.
    lines.append((RETURN, 0, 0, refuse))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def argument(place: int) -> list[Instruction]:
    """Load the lower half of an argument; the kernel ignores the upper half of the arguments that are checked."""
    return [(LOAD, 0, 0, 16 + 8 * place)]


def among(place: int, *values: int) -> list[Instruction]:
    """Allow a call if an argument has one of these values."""
    allow = [line for value in values for line in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
    return [*argument(place), *allow, (RETURN, 0, 0, FAIL | errno.EPERM)]
