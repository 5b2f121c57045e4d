"""``cloven enclave``: seal a model and inputs, run them, release the key, and open the results."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli.help import PanelCommand, PanelGroup
from cloven.cli.models import ModelOptions, PlanOptions, plan_of
from cloven.cli.options import (
    ENCLAVE,
    Accelerator,
    AsJson,
    Backend,
    Classes,
    Handover,
    InputSize,
    Listen,
    Mean,
    Memory,
    ModelOption,
    PlanFile,
    Std,
    Threads,
    Weights,
)
from cloven.cli.printing import by, print_json, print_text, table
from cloven.errors import ClovenError
from cloven.files import read_bytes

if TYPE_CHECKING:
    from cloven.enclave.quote import Verifier
    from cloven.enclave.run_report import RunReport
    from cloven.enclave.runner import Enclave, Inference
    from cloven.enclave.sealed_folder import Sealed

log = logging.getLogger("cloven")

enclave = typer.Typer(
    cls=PanelGroup,
    help="Run a model partly inside an enclave. Its first layers and inputs are decrypted only there.",
    no_args_is_help=True,
)

OWNER, RUNNER = "Owner", "Runner"
SealedFolder = Annotated[
    Path, typer.Argument(help="A folder that `cloven enclave seal` created.", metavar="SEALED")
]
OwnerKey = Annotated[
    Path, typer.Option(help="The owner's key file; `seal` creates it if it is missing.", metavar="FILE")
]
RELEASE_TIMEOUT = 600.0
"""Seconds for which `run` waits for the owner's release."""


# --- the owner ----------------------------------------------------------------------------------------------------


@enclave.command(cls=PanelCommand, rich_help_panel=OWNER)
def seal(
    plan_file: PlanFile,
    owner_key: OwnerKey,
    out: Annotated[Path, typer.Option(help="A new folder.", metavar="FOLDER")],
    weights: Weights = None,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    mean: Mean = "",
    std: Std = "",
) -> None:
    """Encrypt a plan and the weights of its model.

    The plan has two devices, of which the first is trusted. Without --weights, the plan's weights are used. Only
    the owner has the key.
    """
    from cloven.enclave.owner import data_key, new_owner_key, read_owner_key
    from cloven.enclave.quote import SIMULATED, Measurement
    from cloven.enclave.sealed_folder import Sealed, measured, memory_for, modelled, new_id, seal_model
    from cloven.enclave.split import split
    from cloven.partition import plan as plans

    plan = plan_of(PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std)))
    state, graph = modelled(plan)
    split(plans.compile(graph, plan))  # raises all problems of the plan before anything is written
    if not owner_key.exists():
        new_owner_key(owner_key)
        log.info("created the owner's key: %s; anyone who has it can open the sealed files", owner_key)
    folder = Sealed(out, new_id(), memory_for(graph))
    seal_model(folder, plan, state, key=data_key(read_owner_key(owner_key), folder.id))
    if plan.named_model.weights is None:
        log.warning("the plan names no weights: the sealed weights are random")
    measurement = Measurement(SIMULATED, measured(folder))
    log.info("sealed: %s; the measurement of a simulated enclave is %s", out, measurement)


@enclave.command("seal-input", cls=PanelCommand, rich_help_panel=OWNER)
def seal_input(
    sealed: SealedFolder,
    picture: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.", metavar="PICTURE")],
    owner_key: OwnerKey,
    out: Annotated[Path, typer.Option(help="A file; for a folder of pictures, a folder.", metavar="PATH")],
) -> None:
    """Encrypt pictures for the enclave of a sealed folder."""
    from cloven.enclave import sealing
    from cloven.enclave.owner import data_key, read_owner_key
    from cloven.enclave.sealed_folder import INPUT, opened
    from cloven.zoo.folders import picture_size

    folder = opened(sealed)
    key = data_key(read_owner_key(owner_key), folder.id)
    files = sorted(p for p in picture.iterdir() if p.is_file()) if picture.is_dir() else [picture]
    if not files:
        raise ClovenError(f"{picture} is empty; expected pictures")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ClovenError(f"{', '.join(missing)}: no such file")
    stems = [file.stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ClovenError(
            f"several pictures in {picture} would become {twice[0]}.sealed; rename all but one of them"
        )
    for file in files:  # the enclave would refuse an unreadable picture, which ends the run for all
        with _naming(file):
            picture_size(read_bytes(file))
    if picture.is_dir():
        out.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = out / f"{file.stem}.sealed" if picture.is_dir() else out
        sealing.seal(read_bytes(file), target, key=key, name=folder.name(INPUT))
    log.info("%d sealed: %s", len(files), out)


@enclave.command(cls=PanelCommand, rich_help_panel=OWNER)
def release(
    sealed: SealedFolder,
    owner_key: OwnerKey,
    to: Annotated[str, typer.Option(help="The address of the waiting `cloven enclave run`.", metavar="HOST:PORT")],
    expect: Annotated[
        str,
        typer.Option(
            help="The required measurement: sgx:DIGITS, tdx:DIGITS or simulated:DIGITS.",
            metavar="KIND:DIGITS",
        ),
    ],
    collateral: Annotated[
        Path | None,
        typer.Option(help="Intel's collateral, which verifies the hardware quote.", metavar="FILE"),
    ] = None,
    fetch_collateral: Annotated[
        str | None,
        typer.Option(help="Fetch the collateral from this PCCS, and save it to --collateral.", metavar="URL"),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the accepted platforms; default: only an up-to-date TCB.", metavar="FILE"
        ),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="Accept an enclave that proves NOTHING: simulated or gramine-direct.", metavar="KIND"),
    ] = None,
) -> None:
    """Release the key to an enclave after verifying it.

    The key is released once a hardware quote proves the expected measurement. An enclave without hardware receives
    it only if both the expected measurement and --accept name its kind.
    """
    from cloven.enclave.endpoint import deliver
    from cloven.enclave.owner import read_owner_key
    from cloven.enclave.quote import Expected, Measurement
    from cloven.enclave.sealed_folder import opened

    if policy is not None and collateral is None and fetch_collateral is None:
        raise ClovenError(
            "--policy requires --collateral or --fetch-collateral: it applies to a verified hardware quote"
        )
    key, folder_id, measurement = read_owner_key(owner_key), opened(sealed).id, Measurement.parse(expect)
    verifier = _verifier(collateral, policy, fetch_collateral, to)
    demand = Expected(measurement, verifier, accept)
    quote = deliver(to, expect=demand, owner_key=key, folder_id=folder_id)
    log.info("released. %s", quote.words)
    log.info("the run is %s; pass it to `cloven enclave open --run`", quote.run)


def _verifier(collateral: Path | None, policy: Path | None, url: str | None, to: str) -> Verifier | None:
    """Return the verifier of hardware quotes; None without collateral.

    The collateral depends on the platform, so it is fetched for a first quote of the enclave; the key is released
    for a later one.
    """
    from cloven.enclave import collateral as intel
    from cloven.enclave.dcap import STRICT, read_policy, verifier
    from cloven.enclave.endpoint import inquire
    from cloven.files import write_text

    judged = STRICT if policy is None else read_policy(policy)
    if url is not None:
        text = intel.fetch_collateral(url, inquire(to).evidence)
        fetched = intel.parse_collateral(text, url)
        if collateral is not None:
            write_text(collateral, text + "\n")
        return verifier(fetched, judged)
    return None if collateral is None else verifier(intel.read_collateral(collateral), judged)


@enclave.command("open", cls=PanelCommand, rich_help_panel=OWNER)
def open_result(
    sealed: SealedFolder,
    result: Annotated[
        Path,
        typer.Argument(help="The folder that `cloven enclave run --out` wrote, or one result.", metavar="RESULT"),
    ],
    owner_key: OwnerKey,
    inputs: Annotated[
        Path,
        typer.Option(
            "--input",
            help="Your own copy of the picture or of the sealed input; a folder if RESULT is one.",
            metavar="PATH",
        ),
    ],
    run: Annotated[
        str, typer.Option(help="The run that `release` printed: 64 hexadecimal digits.", metavar="DIGITS")
    ],
    as_json: AsJson = False,
) -> None:
    """Open sealed results after checking that they belong to your inputs and the run."""
    from cloven.enclave.owner import data_key, read_owner_key
    from cloven.enclave.sealed_folder import opened
    from cloven.enclave.sealed_results import open_results

    folder = opened(sealed)
    if inputs.is_dir() != result.is_dir():
        raise ClovenError(f"--input {inputs} and {result} must both be folders, or both be files")
    own = sorted(p for p in inputs.iterdir() if p.is_file()) if inputs.is_dir() else [inputs]
    if not own:
        raise ClovenError(f"{inputs} is empty; expected the folder of your pictures")
    pairs = [(result / f"{file.stem}.result", file) for file in own] if result.is_dir() else [(result, inputs)]
    key = data_key(read_owner_key(owner_key), folder.id)
    found, notes = open_results(folder, key, pairs, run=run)
    for note in notes if result.is_dir() else []:
        log.warning(note)
    rows = _classified([path.name for path, _ in pairs], [one.logits[0] for one in found])
    if as_json:
        print_json(rows)
    else:
        _print_classes(rows)


# --- the runner ---------------------------------------------------------------------------------------------------


@enclave.command(cls=PanelCommand, rich_help_panel=RUNNER)
def run(
    sealed: SealedFolder,
    inputs: Annotated[
        Path, typer.Option("--input", help="A sealed picture, or a folder of *.sealed.", metavar="PATH")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the results and the trace.", metavar="FOLDER")
    ] = None,
    listen: Listen = "127.0.0.1:0",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Also listen on addresses of other machines: they cannot learn the key, but can end the run.",
        ),
    ] = False,
    owner_key: Annotated[
        Path | None,
        typer.Option(help="Release the key at once, if you are both owner and runner.", metavar="FILE"),
    ] = None,
    backend: Backend = "simulated",
    accelerator: Accelerator = "cpu",
    handover: Handover = "",
    memory: Memory = "auto",
    threads: Threads = 1,
    manifest: Annotated[
        Path,
        typer.Option(help="The manifest for Gramine's backends.", metavar="FILE", rich_help_panel=ENCLAVE),
    ] = Path("cloven.manifest"),
    as_json: AsJson = False,
) -> None:
    """Run sealed inputs in the enclave and on the accelerator.

    The front runs inside the trusted half, the rear on the accelerator. The command waits for the owner's release
    on --listen, and prints the six steps of Rajasekar et al. (2024) with their times.
    """
    from cloven.enclave.backends import named
    from cloven.enclave.manifest_check import parse_size
    from cloven.enclave.run_report import TRACE, keep
    from cloven.enclave.runner import EnclaveOptions, running
    from cloven.enclave.sealed_folder import opened

    folder, kind = opened(sealed), named(backend)
    files = _sealed_files(inputs, out)
    size = folder.enclave_bytes if memory == "auto" else parse_size(memory)
    way = handover or kind.ways[0]
    options = EnclaveOptions(sealed, kind, accelerator, way, size, threads, manifest)  # type: ignore[arg-type]
    with running(options) as halves:
        released = _await_release(halves, folder, owner_key, listen, insecure=insecure)
        halves.split()
        inferences = [(file, _inferred(halves, file)) for file in files]
        report = keep(halves, folder.id, released, inferences, out)
    for result in report.results:
        if result.file is not None:
            log.info("result of %s: %s", result.input, result.file)
    if out is not None:
        log.info("trace: %s", out / TRACE)
    elif report.result == "sealed":
        log.warning("the results left the enclave sealed and were not saved; use --out FOLDER to save them")
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    clear = [(result.input, result.logits) for result in report.results if result.logits is not None]
    if clear:
        _print_classes(_classified([name for name, _ in clear], [row for _, row in clear]))
    print_trace(report)


def _sealed_files(inputs: Path, out: Path | None) -> list[Path]:
    """Return the sealed inputs, and create the folder for the results now, since a run cannot be repeated."""
    files = sorted(inputs.glob("*.sealed")) if inputs.is_dir() else [inputs]
    problems = [
        f"{file}: no such file; give one that `cloven enclave seal-input` wrote"
        for file in files
        if not file.is_file()
    ]
    if not files:
        problems.append(f"{inputs} contains no *.sealed files; create some with `cloven enclave seal-input`")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        problems.append(f"{out} exists and is not empty; choose a new folder")
    if problems:
        raise ClovenError(problems)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    return files


def _inferred(halves: Enclave, file: Path) -> Inference:
    content = read_bytes(file)
    with _naming(file):
        return halves.infer([content])


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except ClovenError as error:
        raise ClovenError([f"{file}: {problem}" for problem in error.problems]) from error


def _await_release(
    halves: Enclave, folder: Sealed, owner_key: Path | None, listen: str, *, insecure: bool
) -> str | None:
    """Wait until the owner has released the key; with the owner's key, release it and return the run."""
    from cloven.enclave.endpoint import serve_release
    from cloven.enclave.owner import read_owner_key
    from cloven.enclave.timing import release_at_once
    from cloven.runtime.link.address import check_address

    if owner_key is not None:
        run = release_at_once(halves, folder, read_owner_key(owner_key)).run
        log.info("the run is %s; pass it to `cloven enclave open --run`", run)
        return run
    host, port = check_address(listen, None, insecure, keys=False)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        shown = f"[{host}]" if ":" in host else host
        command = "cloven enclave release %s --owner-key KEY --to %s:%d --expect MEASUREMENT"
        log.info(f"waiting for the owner: {command}", folder.path, shown, listener.getsockname()[1])
        listener.settimeout(RELEASE_TIMEOUT)
        serve_release(listener, halves.ask, 10.0)
    return None


@enclave.command(cls=PanelCommand, rich_help_panel=RUNNER)
def manifest(
    sealed: SealedFolder,
    memory: Memory = "auto",
    threads: Threads = 1,
    attestation: Annotated[
        str, typer.Option(help="dcap, or none for an enclave without remote attestation.", metavar="NAME")
    ] = "dcap",
) -> None:
    """Print the template of a Gramine manifest."""
    from cloven.enclave import manifest as gramine
    from cloven.enclave.manifest_check import parse_size
    from cloven.enclave.sealed_folder import opened

    if attestation not in ("dcap", "none"):
        raise ClovenError(f"--attestation is {attestation!r}; choose dcap or none")
    size = opened(sealed).enclave_bytes if memory == "auto" else parse_size(memory)
    backend = "gramine-sgx" if attestation == "dcap" else "gramine-direct"
    given = gramine.enclosed(
        sealed,
        gramine.Python.here(),
        enclave_bytes=size,
        words=["--backend", backend, "--memory", str(size), "--way", "pipe", "--threads", str(threads)],
        threads=threads,
        attestation=attestation,  # type: ignore[arg-type]
    )
    typer.echo(gramine.template(given), nl=False)


# --- tables -------------------------------------------------------------------------------------------------------


def _classified(names: Sequence[str], logits: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    return [
        {"input": name, "class": row.index(max(row)), "logits": row}
        for name, row in zip(names, logits, strict=True)
    ]


def _print_classes(rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [[row["input"], row["class"], f"{max(row['logits']):.4f}"] for row in rows]
    table("results", ["input", "class", "logit"], shown)


def print_trace(report: RunReport) -> None:
    """Print the steps of an enclave's run, and the data that left the enclave."""
    print_text(f"{report.backend} on {report.accelerator}. {report.trust}")
    print_text(f"limits: {', '.join(report.limits) or 'those of the enclave'}")
    rows = [[row.step, row.what, f"{row.seconds:.4f}"] for row in report.trace]
    table("the six steps of an inference (medians)", ["step", "what", "seconds"], rows)
    handed = report.handed_over
    shapes = ", ".join(map(by, handed.shapes))
    values = f"{', '.join(handed.values)} ({shapes}), {handed.bytes:,} bytes"
    print_text(f"handed over by {report.handover}: {values}")
    print_text(f"outside in clear: {', '.join(report.in_clear)}")
