"""Commands as processes: real workers, and commands that are stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cli.conftest import Done

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


class Process:
    """A process of ``cloven ARGS``; its output goes to files. ``python`` is the command of the interpreter."""

    def __init__(
        self,
        folder: Path,
        *args: object,
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self.out, self.err = (folder / f"{args[0]}-{os.urandom(4).hex()}.{end}" for end in ("out", "err"))
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*python, "-m", "cloven.cli", *map(str, args)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | dict(env or {}),
            )  # fmt: skip

    def until(self, sign: str) -> str:
        """Wait for a line with ``sign`` on standard error; return the line."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            ended = self.process.poll() is not None
            for line in self.err.read_text().splitlines(keepends=True):
                if sign in line and line.endswith("\n"):
                    return line
            assert not ended, self.err.read_text()
            time.sleep(0.02)
        raise AssertionError(f"it did not say {sign!r}: {self.err.read_text()}")

    def done(self) -> Done:
        """Wait for the end of the process."""
        code = self.process.wait(PATIENCE)
        return Done(code, self.out.read_text(), self.err.read_text())

    def interrupt(self) -> Done:
        """Interrupt the process as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        return self.done()


@contextmanager
def process(
    folder: Path, *args: object, env: Mapping[str, str] | None = None, python: Sequence[str] = (sys.executable,)
) -> Iterator[Process]:
    """Run ``cloven ARGS``; end the process in any case."""
    made = Process(folder, *args, env=env, python=python)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


@contextmanager
def workers(
    folder: Path,
    bundle: Path,
    keys: Path | None = None,
    upgrades: Path | None = None,
    others: Sequence[Path] = (),
) -> Iterator[dict[str, Process]]:
    """Run a worker for each device of a bundle, and write their addresses to ``cluster.toml`` in the folder.

    Each loads its part of the other bundles too, where it has one.
    """
    devices = sorted(path.name for path in bundle.iterdir() if path.is_dir())
    listen = ("--listen", "127.0.0.1:0")
    options = {name: ["--keys", keys / name] if keys else [] for name in devices}
    if upgrades is not None:
        options = {name: [*given, "--upgrades", upgrades / name] for name, given in options.items()}
    parts = {name: [one / name for one in (bundle, *others) if (one / name).is_dir()] for name in devices}
    made = {name: Process(folder, "worker", *parts[name], *listen, *options[name]) for name in devices}
    try:
        lines = [f'{name} = "{json.loads(worker.until("ready"))["listen"]}"\n' for name, worker in made.items()]
        head = f'keys = "{keys / "coordinator"}"\n' if keys else ""
        (folder / "cluster.toml").write_text(f"{head}[devices]\n{''.join(lines)}")
        yield made
    finally:
        for worker in made.values():
            worker.process.kill()
            worker.process.wait()
