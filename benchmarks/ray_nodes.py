"""A Ray cluster of node processes on this machine, each of which can be killed as if its machine had failed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

MEMORY = 300_000_000
"""The bytes of the object store of each node."""

SOON = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}
"""Settings with which the head soon notices that a node is lost."""

STARTED = "Ray runtime started"
"""A node writes this once it is part of the cluster."""

STARTING = 120.0
"""The most seconds that the start of a node takes."""


@dataclass
class RayNodes:
    """The nodes of a cluster: a head without cores for cells, and others with one core each.

    Attributes:
        environment: the environment of the nodes and of the driver; ``RAY_ADDRESS`` names the cluster.
        folder: the folder of Ray's files.
        client: the address for drivers on other machines.
        processes: the process of each node but the head, which leads a session with all processes of the node.
        started: the number of nodes that were started, the head included.
    """

    environment: Mapping[str, str]
    folder: Path
    client: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0

    def add(self) -> None:
        """Start a node, and wait until it is part of the cluster."""
        self.processes.append(self.start("--address", self.environment["RAY_ADDRESS"], "--num-cpus", "1"))

    def kill(self, number: int) -> None:
        """Kill all processes of a node."""
        kill_session(self.processes.pop(number))

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Run ``ray start`` with some options, and wait until the node has started.

        Raises:
            RuntimeError: if it does not start.
        """
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += ["--object-store-memory", str(MEMORY), "--include-log-monitor", "false"]
        self.started += 1
        log = self.folder / f"{self.started}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=dict(self.environment), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + STARTING
        while STARTED not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                kill_session(process)
                raise RuntimeError(f"a node did not start: {log.read_text()}")
            time.sleep(0.1)
        return process


@contextmanager
def ray_nodes(environment: Mapping[str, str], nodes: int) -> Iterator[RayNodes]:
    """Run a cluster with a number of nodes besides its head; the environment is added to that of this process."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, client = one.getsockname()[1], other.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of Ray's sockets must be short
    own = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # without, anyone in the network could run code here
    }
    cluster = RayNodes({**os.environ, **SOON, **environment, **own}, folder, f"ray://127.0.0.1:{client}")
    ports = ("--port", str(port), "--ray-client-server-port", str(client), "--temp-dir", str(folder))
    head = cluster.start("--head", "--num-cpus", "0", "--include-dashboard", "false", *ports)
    try:
        for _ in range(nodes):
            cluster.add()
        yield cluster
    finally:
        for process in [*cluster.processes, head]:
            kill_session(process)
        shutil.rmtree(folder, ignore_errors=True)


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill a process and all others of the session that it leads."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(leader.pid)], capture_output=True, text=True, check=False
    )
    for pid in map(int, listed.stdout.split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    leader.kill()
    leader.wait()
