"""The program ``cloven``: its commands, and the handling of errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from cloven.cli.advise import advise
from cloven.cli.attack import attack
from cloven.cli.audit import audit
from cloven.cli.bundle import bundle
from cloven.cli.data import data
from cloven.cli.enclave import enclave
from cloven.cli.estimate import estimate
from cloven.cli.exits import STOPPED, WRONG
from cloven.cli.help import PanelCommand, PanelGroup
from cloven.cli.inspect import inspect
from cloven.cli.keys import keys
from cloven.cli.lab import lab
from cloven.cli.plan import plan
from cloven.cli.profile import profile
from cloven.cli.report import report
from cloven.cli.reproduce import papers
from cloven.cli.results import results
from cloven.cli.run import run
from cloven.cli.serve import serve
from cloven.cli.study import study
from cloven.cli.tap import tap
from cloven.cli.upgrade import upgrade
from cloven.cli.worker import worker
from cloven.errors import ClovenError, printable, require, system_error

STDERR = 2
"""The highest file descriptor of the standard streams."""

EXTRAS = {
    "hyperframe": "tap",
    "httpx": "attack",
    "fastapi": "serve",
    "uvicorn": "serve",
    "multipart": "serve",
    "numba": "ascon",
    "onnxruntime": "edge",
    "torchvision": "models",
    "timm": "models",
    **dict.fromkeys(("onnx", "torch", "sklearn", "matplotlib", "jinja2", "PIL"), "audit"),
    **dict.fromkeys(("pandas", "pyarrow", "scipy"), "audit"),
}
"""The extra that includes an optional package."""


class Commands(PanelGroup):
    """All commands. On Ctrl-C they exit with code 130, and on an operating system error with 2."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse the options of all commands, such as ``--help``."""
        with _refusals():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the selected command."""
        try:
            with _refusals():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            log.warning("stopped")
            raise typer.Exit(STOPPED) from None


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn an OSError into a ClovenError: typer would exit with 1, "a check failed", if the output is closed."""
    try:
        yield
    except OSError as error:
        raise system_error(error) from error


app = typer.Typer(
    cls=Commands,
    help="Divide a CNN over several machines, run it, and measure what a listener on each link can reconstruct.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
log = logging.getLogger("cloven")


def main() -> None:
    """Run ``cloven``; errors of the user's input and of the operating system become messages and exit code 2."""
    _fill_standard_streams()
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # before torch: threads that wait by spinning use up the cores
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)  # other libraries: only warnings
    logging.getLogger().handlers[0].setFormatter(_Printable())
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # so that a failed write is reported here, and not when Python exits
    except ClovenError as error:
        _fail(error)
    except OSError as error:
        _fail(system_error(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(require(EXTRAS[package], error))


def _fill_standard_streams() -> None:
    """Open /dev/null for each closed standard stream; otherwise the next file that is opened takes its place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # print() would use the other
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _fail(error: ClovenError) -> None:
    with suppress(OSError):  # standard error is closed too
        for problem in error.problems:
            print(printable(f"cloven: {problem}"), file=sys.stderr)  # noqa: T201
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at exit, and fail with another exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(WRONG)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"cloven {metadata.version('cloven')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Handle ``--version``; every command has its own options."""


PLANS, RUNS, AUDITS = "Divide a model", "Run it", "Measure what leaks"
for panel, commands in (
    (PLANS, (inspect, plan, estimate, profile)),
    (RUNS, (run, bundle, worker, upgrade, serve, lab)),
    (AUDITS, (audit, advise, report, results, tap, attack, data)),
):
    for command in commands:
        app.command(cls=PanelCommand, rich_help_panel=panel)(command)
app.add_typer(keys, name="keys", rich_help_panel=RUNS)
app.add_typer(enclave, name="enclave", rich_help_panel=RUNS)
app.add_typer(study, name="study", rich_help_panel=AUDITS)
app.add_typer(papers, name="reproduce", rich_help_panel=AUDITS)
