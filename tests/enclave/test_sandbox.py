"""The sandbox in a separate process, as root and as another user: the calls it refuses, and the work it allows."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cloven.enclave import sandbox
from cloven.enclave.sandbox import CALLS, PROCESSORS

MADE_EVERYWHERE = {"ifb0", "ifb1", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}
"""Interfaces that some kernels create in every new network namespace."""
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
NUMBERS = {name: numbers[COLUMN] for name, numbers in CALLS.items()}

USERS = ["root", "another user"] if os.getuid() == 0 else ["this user"]
IMPORTS = """
import ctypes, errno, fcntl, json, mmap, os, resource, socket, subprocess, sys, threading
from cloven.enclave import sandbox
libc = ctypes.CDLL(None, use_errno=True)
"""
OTHER_USER = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
SHUT = """
said = [
    sandbox.leave_network(), sandbox.drop_capabilities(), sandbox.limit_memory(2**29), sandbox.restrict_calls()
]
"""


def ran(program: str, folder: Path, user: str, *, shut: bool = True) -> subprocess.CompletedProcess[str]:
    text = IMPORTS + OTHER_USER * (user == "another user") + SHUT * shut + program
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=folder, timeout=60)


def found(program: str, folder: Path, user: str, *, shut: bool = True) -> Any:
    done = ran(program, folder, user, shut=shut)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=USERS)
def user(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(user: str) -> Iterator[Path]:
    """A working folder that every user can access; skips if the kernel does not support the sandbox."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        said = ran("print(said)", path, user).stdout
        if "no network" not in said or "nothing sent or started" not in said:
            pytest.skip(f"this kernel does not support the sandbox: {said}")
        assert "'no capabilities'" in said
        yield path


# --- system call numbers ----------------------------------------------------------------------------------------


def test_every_system_call_but_those_named_is_refused(folder: Path, user: str) -> None:
    """Try all numbers that a kernel may have, and those of the x32 interface of x86-64."""
    # Linux lets no filter see x86-64's uretprobe and uprobe (335, 336), which end a process that calls them.
    named = {*NUMBERS.values(), *((335, 336) if COLUMN == 0 else ())}
    program = f"""
refused = {{}}
for number in [n for n in range(1024) if n not in {named}] + [2**30 + n for n in range(600)]:
    refused[number] = (libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())
print(json.dumps([[n, *was] for n, was in refused.items() if was != (-1, errno.EPERM)]))
"""
    assert found(program, folder, user) == []


UNISTD = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", UNISTD)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = Path(UNISTD[machine])
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    theirs = {name: int(number) for name, number in lines} | {"newfstatat": 79 if machine == "aarch64" else 262}
    ours = {name: numbers[PROCESSORS[machine].column] for name, numbers in CALLS.items()}

    assert {name: theirs[name] for name, number in ours.items() if number is not None} == {
        name: number for name, number in ours.items() if number is not None
    }
    assert len(set(ours.values()) - {None}) == len([number for number in ours.values() if number is not None])


def verdict(program: bytes, number: int, architecture: int, *arguments: int) -> int:
    """Return a filter's verdict on a call, by the kernel's rules (classic BPF)."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = list(struct.iter_unpack("HBBI", program))
    word = at = 0
    while True:
        code, yes, no, value = lines[at]
        if code == sandbox.RETURN:
            return int(value)
        if code == sandbox.LOAD:
            (word,) = struct.unpack_from("<I", data, value)
            at += 1
        else:
            true = {sandbox.JUMP_EQUAL: word == value, sandbox.JUMP_ANY: bool(word & value)}[code]
            at += 1 + (yes if true else no)


@pytest.mark.parametrize("machine", PROCESSORS)
def test_the_verdicts_of_the_filter_of_each_processor(machine: str) -> None:
    """The filter of the other processor cannot run here, so its lines are interpreted."""
    processor = PROCESSORS[machine]
    program = sandbox.filter_of(processor, 77)
    number = {name: numbers[processor.column] for name, numbers in CALLS.items()}

    def says(name: str, *arguments: int) -> int:
        of = number[name]
        assert of is not None
        return verdict(program, of, processor.architecture, *arguments)

    refuse = sandbox.FAIL | errno.EPERM
    named = set(number.values())
    assert {verdict(program, n, processor.architecture) for n in range(2**11) if n not in named} == {refuse}
    others = {0x40000003, 0xC000003E, 0xC00000B7, 0x40000028, 0} - {processor.architecture}
    assert {verdict(program, n, other) for n in range(600) for other in others} == {sandbox.KILL}
    assert says("read") == says("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == sandbox.ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR, os.O_APPEND):
        assert says("openat", 0, 0, flags) == says("openat", 2**63, 2**32, flags | 2**40) == refuse
    assert says("clone", 0x3D0F00) == says("clone", 0x7D0F00) == sandbox.ALLOW
    for flags in (17, 0, 0x4111, *(0x3D0F00 | 1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))):
        assert says("clone", flags) == refuse
    assert says("clone3") == sandbox.FAIL | errno.ENOSYS
    assert (says("tgkill", 77, 78, 6), says("tgkill", 1, 1, 9)) == (sandbox.ALLOW, refuse)
    assert (says("prlimit64", 0), says("prlimit64", 1)) == (sandbox.ALLOW, refuse)
    assert (says("prctl", 15), says("prctl", 23), says("prctl", 22)) == (sandbox.ALLOW, refuse, refuse)
    assert (says("ioctl", 0, 0x5401), says("ioctl", 0, 0x5412)) == (sandbox.ALLOW, refuse)  # TCGETS, TIOCSTI
    assert {says("fcntl", 0, command) for command in (4, 5, 6, 8, 10, 1024, 1026, 1031, 1033)} == {refuse}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86's")
def test_a_call_of_another_architecture_ends_the_process(folder: Path, user: str) -> None:
    """The instruction int 0x80 uses other numbers: 20 is getpid there, and writev here."""
    program = """
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print(call(), flush=True)
"""
    assert ran(program, folder, user, shut=False).stdout.strip().lstrip("-").isdecimal()
    done = ran(program, folder, user)
    assert done.returncode < 0
    assert not done.stdout


# --- refused actions --------------------------------------------------------------------------------------------

DONE = {
    "write a file": "open('new', 'w')",
    "write to a file that is there": "os.open('mine', os.O_WRONLY)",
    "make a folder": "os.mkdir('folder'); os.rmdir('folder')",
    "make a link": "os.symlink('a', 'b'); os.remove('b')",
    "make a pipe in a folder": "os.mkfifo('fifo'); os.remove('fifo')",
    "change a mode": "os.chmod('mine', 0o600)",
    "change a mode of what is open": "os.fchmod(mine, 0o600)",
    "change an owner": "os.chown('mine', os.getuid(), -1)",
    "set times": "os.utime('mine')",
    "shorten by name": "os.truncate('mine', 0)",
    "rename": "os.rename('mine', 'mine')",
    "a hard link": "os.link('mine', 'other')",
    "remove": "os.remove('other')",
    "an attribute": "os.setxattr('mine', 'user.a', b'1')",
    "lock a file": "fcntl.flock(mine, fcntl.LOCK_SH)",
    "a socket": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "a program": "subprocess.run(['true'], check=True)",
    "a process": "os.fork() or os._exit(0)",
    "shared memory without a name": "os.memfd_create('x')",
    "a signal to another process": "os.kill(child, 0)",
    "a signal to a group": "os.kill(-child, 0)",
    "another process by descriptor": "os.pidfd_open(child)",
    "copy between descriptors": "os.sendfile(1, mine, 0, 1)",
    "a pipe": "os.pipe()",
    "another folder": "os.chdir('/')",
    "the priority": "os.nice(0)",
    "a limit of another process": "resource.prlimit(child, resource.RLIMIT_CORE)",
    "shared memory": "c(libc.shmctl(c(libc.shmget(0, 4096, 0o1600)), 0, None))",
    "a semaphore": "c(libc.semctl(c(libc.semget(0, 1, 0o1600)), 0, 0))",
    "a message queue": "c(libc.msgctl(c(libc.msgget(0, 0o1600)), 0, None))",
    "a named message queue": "c(libc.mq_open(NAME, 0o102, 0o600, None)); c(libc.mq_unlink(NAME))",
    "a key in the kernel": "c(libc.syscall(CALL['add_key'], b'user', b'cloven', b'1', 1, -1))",
    "a handle of a file": "c(libc.name_to_handle_at(-100, b'mine', I(128), I(), 0))",
    "another process's memory": "c(libc.process_vm_readv(child, None, 0, None, 0, 0))",
    "a namespace": "c(libc.unshare(0x10000000))",
    "a personality": "c(libc.personality(0xFFFFFFFF))",
}
CALL = {"add_key": (248, 217)}
SELDOM = {"an attribute", "a named message queue", "a key in the kernel", "a namespace", "a handle of a file"}
"""Actions that some kernels and file systems do not support."""
TRIES = f"""
TRIES, CALL, NAME = {DONE}, {{'add_key': {CALL["add_key"][COLUMN]}}}, b"/cloven-%d" % os.getpid()
I = ctypes.c_int * 40
def c(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
came = {{}}
for what, code in TRIES.items():
    try:
        exec(code)
        came[what] = 0
    except OSError as error:
        came[what] = error.errno
print(json.dumps(came))
"""
BEFORE = """
child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=-3, stderr=-3).pid
open("mine", "w").close(); mine = os.open("mine", os.O_RDONLY)
"""


def test_what_could_let_something_out_is_refused(folder: Path, user: str) -> None:
    """Each action works without the sandbox as the same user, which shows that the sandbox refuses it."""
    outcomes = []
    for shut in ("", SHUT):
        text = IMPORTS + OTHER_USER * (user == "another user") + BEFORE + shut
        done = subprocess.run(
            [sys.executable, "-c", f"{text}print(child)\n{TRIES}"], capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        first, last = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
        os.kill(int(first), signal.SIGKILL)
        outcomes.append(json.loads(last))

    free, shut_in = outcomes
    assert {what: number for what, number in free.items() if number and what not in SELDOM} == {}
    assert {what: number for what, number in shut_in.items() if number != errno.EPERM} == {}


def test_root_keeps_no_capability_and_gets_none(folder: Path, user: str) -> None:
    program = "print(json.dumps(dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)))"
    status = {name: value.strip() for name, value in found(program, folder, user).items()}

    kept = ("CapInh", "CapPrm", "CapEff", "CapAmb", *(("CapBnd",) if user == "root" else ()))
    assert {name: int(status[name], 16) for name in kept} == dict.fromkeys(kept, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert found("print(resource.getrlimit(resource.RLIMIT_CORE)[1])", folder, user) == 0


# --- allowed actions --------------------------------------------------------------------------------------------


def test_reading_computing_and_threads_work_and_threads_are_shut_in_too(folder: Path, user: str) -> None:
    program = """
waits, refused = threading.Event(), []
def work():
    waits.wait()
    try:
        open("new", "w")
    except PermissionError:
        refused.append(True)
old = threading.Thread(target=work); old.start()
sandbox.restrict_calls(); waits.set(); old.join()
new = threading.Thread(target=work); new.start(); new.join()
os.write(2, b"")
print(json.dumps([refused, len(os.listdir("/proc/self")) > 5, open("/proc/self/stat").read(1).isdecimal()]))
"""
    assert found(program, folder, user, shut=False) == [[True, True], True, True]


def test_pytorch_computes_inside_what_it_computes_outside(folder: Path, user: str) -> None:
    program = """
torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
print(json.dumps(net(torch.ones(2, 3, 8, 8)).tolist()))
"""
    warm = "import torch; torch.set_num_threads(2)\n"
    text = IMPORTS + warm + OTHER_USER * (user == "another user")
    inside, outside = (
        subprocess.run([sys.executable, "-c", text + shut + program], capture_output=True, text=True, cwd=folder)
        for shut in (SHUT.replace("2**29", "2**32"), "")
    )

    assert inside.returncode == 0, inside.stderr
    assert json.loads(inside.stdout) == json.loads(outside.stdout)


def test_no_interface_is_left_but_a_loop_that_is_down(folder: Path, user: str) -> None:
    listed: str = found("print(json.dumps(open('/proc/self/net/dev').read()))", folder, user)

    names = {line.split(":")[0].strip() for line in listed.splitlines() if ":" in line}
    assert not names & {name for _, name in socket.if_nameindex() if name != "lo"} - MADE_EVERYWHERE


def test_no_core_file_is_written_and_no_program_is_given_one(folder: Path, user: str) -> None:
    """Linux passes core dumps to a program such as systemd-coredump regardless of the limit on their size."""
    program = "print(json.dumps([resource.getrlimit(resource.RLIMIT_CORE), libc.prctl(3, 0, 0, 0, 0)]))"
    shut = "sandbox.limit_memory(2**29)\n"

    assert found(shut + program, folder, user, shut=False) == [[0, 0], 0]


def test_more_memory_than_the_cap_is_refused(folder: Path, user: str) -> None:
    assert "MemoryError" in ran("bytearray(2**29)", folder, user).stderr
    assert ran("bytearray(2**27)", folder, user).returncode == 0


def test_a_platform_without_the_filter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert sandbox.restrict_calls() == "no system call filter on this platform"
