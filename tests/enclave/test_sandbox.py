"""The sandbox in a process of its own: what it refuses, and what still works."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from cloven.enclave import sandbox

MADE_EVERYWHERE = {"ifb0", "ifb1", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}
"""Interfaces that some kernels put into every new network."""

HEAD = """
import os, socket, subprocess, sys, threading
from cloven.enclave import sandbox
said = [sandbox.alone(), sandbox.capped(2**29), sandbox.shut()]
"""
TRIES = {
    "write a file": "open('new', 'w')",
    "write to a file that is there": "os.open('/proc/self/comm', os.O_WRONLY)",
    "make a folder": "os.mkdir('folder'); os.rmdir('folder')",
    "make a link": "os.symlink('a', 'b'); os.remove('b')",
    "open a socket": "socket.socket()",
    "start a program": "subprocess.run(['true'], check=True)",
    "map memory that others see": "os.memfd_create('x')",
}


def done(program: str, cwd: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A working folder, where the kernel has what the sandbox needs."""
    folder = str(tmp_path_factory.mktemp("sandbox"))
    said = done("print(said)", folder).stdout
    if "no network" not in said or "nothing sent or started" not in said:
        pytest.skip(f"this kernel does not let a process shut itself in: {said}")
    return folder


@pytest.mark.parametrize("what", TRIES)
def test_what_could_let_something_out_is_refused(shut: str, what: str) -> None:
    free = HEAD.split("said =")[0] + TRIES[what]
    assert subprocess.run([sys.executable, "-c", free], cwd=shut).returncode == 0  # it is the sandbox that refuses

    tried = done(TRIES[what], shut)
    assert tried.returncode == 1
    assert "PermissionError" in tried.stderr


def test_what_is_needed_works_on_and_threads_are_shut_in_too(shut: str) -> None:
    program = """
waits = threading.Event()
refused = []
def work():
    waits.wait()
    try:
        open("new", "w")
    except PermissionError:
        refused.append(True)
"""
    later = """
thread.join()
open(sys.executable, "rb").read(1)
print(bytes(2**20) == bytes(2**20), refused)
"""
    start = "thread = threading.Thread(target=work); thread.start()\n"
    whole = HEAD.split("said =")[0] + program + start + "sandbox.shut(); waits.set()" + later
    found = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, cwd=shut)

    assert found.stdout.split("\n")[0] == "True [True]", found.stderr


def test_no_interface_is_left_but_a_loop_that_is_down(shut: str) -> None:
    found = done("print(open('/proc/self/net/dev').read())", shut)

    names = {line.split(":")[0].strip() for line in found.stdout.splitlines() if ":" in line}
    assert found.returncode == 0
    assert not names & {name for _, name in socket.if_nameindex() if name != "lo"} - MADE_EVERYWHERE


def test_more_memory_than_the_cap_is_refused(shut: str) -> None:
    assert "MemoryError" in done("bytearray(2**29)", shut).stderr
    assert done("bytearray(2**27)", shut).returncode == 0


def test_where_there_is_no_such_filter_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert sandbox.shut() == "no filter of system calls here"
