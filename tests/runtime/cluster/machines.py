"""Worker processes for tests, their cluster file, and a proxy between two of them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import isawaitable
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.request import urlopen

from cloven.partition.plan import Plan
from cloven.runtime.bundle.reader import read_manifest
from cloven.runtime.cluster import sending
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.plans import Images, plan_of

Made = TypeVar("Made")
Outcomes = list[Prediction | FrameFailed]
Event = Callable[[], Any]
NOTHING: Mapping[int, Event] = MappingProxyType({})

STARTING, STOPPING = 60.0, 20.0
"""Seconds that a worker may take on a busy machine."""


class Machine:
    """A worker process; the test fails if its standard error has anything but JSON lines."""

    def __init__(self, folder: Path, logs: Path, options: Sequence[object] = (), name: str | None = None) -> None:
        self.folder, self.options = folder, options if name is None else [*options, "--name", name]
        self.device, self.address, self.metrics = name or folder.name, "127.0.0.1:0", "127.0.0.1:0"
        self.logs, self.starts = logs, 0
        self.again()

    def again(self) -> None:
        """Start the worker, or restart it at the same address."""
        command = [sys.executable, "-m", "cloven.cli", "worker", self.folder, "--listen", self.address]
        command += ["--metrics", self.metrics, *self.options]
        self.starts += 1
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command], stderr=errors, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def ready(self) -> Machine:
        """Wait until the worker listens."""
        until = time.monotonic() + STARTING
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.events("ready"):
                self.address, self.metrics = line["listen"], line["metrics"]
                return self
            time.sleep(0.02)
        raise AssertionError(f"{self.device} did not start: {self.log.read_text()}")

    @property
    def log(self) -> Path:
        """Return the file of its standard error since the last start."""
        return self.logs / f"{self.device}-{self.starts}.log"

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.lines() if line["event"] == name]

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if it is missing."""
        with urlopen(f"http://{self.metrics}/metrics", timeout=20) as answer:
            return sample(answer.read().decode(), name, **labels)

    def kill(self) -> None:
        """Kill the worker."""
        self.process.kill()
        self.process.wait(STOPPING)

    def stop(self) -> int:
        """Stop the worker as a service manager does; return its exit code."""
        self.process.terminate()
        return self.process.wait(STOPPING)

    def pause(self) -> None:
        """Suspend the worker, so that it hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the suspended worker."""
        self.process.send_signal(signal.SIGCONT)

    def memory(self) -> int:
        """Return the memory of the worker in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def sample(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels in a text of Prometheus metrics."""
    found = 0.0
    for line in text.splitlines():
        made = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if made and all(f'{key}="{value}"' in (made[1] or "") for key, value in labels.items()):
            found += float(made[2])
    return found


Options = Callable[[str], Sequence[object]]


def no_options(_: str) -> Sequence[object]:
    """Return no options, for every worker."""
    return ()


@contextmanager
def machines(
    bundle: Path, folder: Path, options: Options = no_options, others: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[dict[str, Machine]]:
    """Run a worker for each device of a bundle (some of ``others``); check that their logs have no error."""
    names = [device.folder for device in read_manifest(bundle).devices]
    folder.mkdir(parents=True, exist_ok=True)
    with _running({n: Machine(others.get(n, bundle) / n, folder, options(n)) for n in names}, folder) as made:
        yield made


@contextmanager
def equals(
    bundle: Path, folder: Path, names: Sequence[str], options: Options = no_options
) -> Iterator[dict[str, Machine]]:
    """Run workers that have all loaded the whole bundle; check that their logs have no error."""
    folder.mkdir(parents=True, exist_ok=True)
    with _running({n: Machine(bundle, folder, options(n), n) for n in names}, folder) as made:
        yield made


@contextmanager
def _running(made: dict[str, Machine], folder: Path) -> Iterator[dict[str, Machine]]:
    try:
        for machine in made.values():
            machine.ready()
        yield made
    finally:
        for machine in made.values():
            if machine.process.poll() is None:
                machine.process.kill()
        for machine in made.values():
            machine.process.wait(STOPPING)
    lines = [json.loads(line) for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    assert not [line for line in lines if "trace" in line or line["level"] == "error"]


def restored(shared: dict[str, Machine]) -> Iterator[dict[str, Machine]]:
    """Yield workers of several tests, all of which run; resume those that were suspended afterwards."""
    for worker in shared.values():
        if worker.process.poll() is not None:
            worker.again()
    for worker in shared.values():
        worker.ready()
    yield shared
    for worker in shared.values():
        if worker.process.poll() is None:
            worker.resume()


def with_keys(keys: Path, *more: object) -> Options:
    """Return options that give each worker its keys."""
    return lambda name: ("--keys", keys / name, *more)


def cluster(
    folder: Path, machines: Mapping[str, Machine], keys: Path | None = None, *, insecure: bool = False
) -> Path:
    """Write the cluster file of the workers."""
    addresses = {name: machine.address for name, machine in machines.items()}
    head = f'keys = "{keys / "coordinator"}"\n' if keys is not None else ""
    head += "insecure = true\n" if insecure else ""
    path = folder / "cluster.toml"
    path.write_text(head + "[devices]\n" + "".join(f'{n} = "{a}"\n' for n, a in addresses.items()))
    return path


def coordinator(plan: Plan, file: Path, options: SendOptions | None = None) -> Coordinator:
    """Return the coordinator of a cluster file."""
    return sending.coordinator(plan, file, options or SendOptions())


def within(seconds: float, work: Awaitable[Made]) -> Made:
    """Return the result of work in a separate event loop; check that it leaves no unhandled errors."""
    complaints: list[dict[str, Any]] = []

    async def bounded() -> Made:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(seconds):
            return await work

    made = asyncio.run(bounded())
    gc.collect()
    # gRPC's poller, which all event loops of a process share, sometimes still serves a closed one.
    assert not [context for context in complaints if "PollerCompletionQueue" not in context["message"]]
    return made


async def outcomes(run: Coordinator, images: Iterable[Any], events: Mapping[int, Event] = NOTHING) -> Outcomes:
    """Return the outcomes of images; trigger events after some of them."""
    found: Outcomes = []
    async for outcome in run.answers(images):
        found.append(outcome)
        if len(found) in events and isawaitable(waiting := events[len(found)]()):
            await waiting
    return found


def gap(found: Outcomes) -> float:
    """Return the longest time without an answer, in seconds."""
    times = sorted(answer.answered for answer in found if isinstance(answer, Prediction))
    return max(later - earlier for earlier, later in pairwise(times))


async def all_up(run: Coordinator) -> None:
    """Wait until a run can answer images again."""
    while not run.health().ready:
        await asyncio.sleep(0.05)


def send(
    bundle: Path, file: Path, images: Images, options: SendOptions | None = None, seconds: float = 60
) -> Outcomes:
    """Send images through workers."""

    async def run() -> Outcomes:
        async with coordinator(plan_of(bundle), file, options) as made:
            return await outcomes(made, images)

    return within(seconds, run())


# --- a proxy between two parties --------------------------------------------------------------------------------


class Proxy:
    """A TCP proxy that can stop, slow down or break its connections; ``address`` replaces the target's."""

    def __init__(self, target: str) -> None:
        self.host, _, port = target.rpartition(":")
        self.port = int(port)
        self.address = ""
        self.open, self.rate = asyncio.Event(), 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.open.set()

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break all connections."""
        for writer in self.writers:
            writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, back}
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, target))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**14):
                await self.open.wait()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
