"""The commands of an enclave: seal, run, release, manifest, open. Parsing and printing, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli import printing
from cloven.cli.models import plan_of
from cloven.cli.options import AsJson
from cloven.cli.printing import print_json
from cloven.errors import ClovenError
from cloven.files import read_bytes

if TYPE_CHECKING:
    from cloven.enclave.quote import Verifier
    from cloven.enclave.runner import Enclave, Inference
    from cloven.enclave.sealed_folder import Sealed

log = logging.getLogger("cloven")

enclave = typer.Typer(
    help="Run a model whose first layers, and its input, are open inside a trusted half only.", no_args_is_help=True
)

SealedFolder = Annotated[Path, typer.Argument(help="A folder that `cloven enclave seal` made.", metavar="SEALED")]
OwnerKey = Annotated[Path, typer.Option(help="The owner's key; `seal` makes it where there is none.")]
MINUTES = 600.0
"""Seconds that the owner's release is waited for."""


# --- the owner --------------------------------------------------------------------------------------------------


@enclave.command()
def seal(
    plan_file: Annotated[Path, typer.Argument(help="A plan of two devices, the first trusted.", metavar="PLAN")],
    owner_key: OwnerKey,
    out: Annotated[Path, typer.Option(help="A new folder.")],
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights, as of `cloven plan`; left out, the plan's.")
    ] = None,
) -> None:
    """Encrypt a plan and its model's weights under a key that only the owner has."""
    from cloven.enclave.owner import data_key, new_owner_key, read_owner_key
    from cloven.enclave.quote import SIMULATED, Measurement
    from cloven.enclave.sealed_folder import Sealed, measured, memory_for, modelled, new_id, seal_model
    from cloven.enclave.split import split
    from cloven.partition import plan as plans

    plan = plan_of(plan_file)
    file = weights or (Path(plan.model.weights) if plan.model.weights else None)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"weights": str(file) if file else None})})
    state, graph = modelled(plan)
    split(plans.compile(graph, plan))  # all that is wrong with the plan, before anything is written
    if not owner_key.exists():
        new_owner_key(owner_key)
        log.info("a new owner's key: %s; whoever has it can open what is sealed", owner_key)
    folder = Sealed(out, new_id(), memory_for(graph))
    seal_model(folder, plan, state, key=data_key(read_owner_key(owner_key), folder.id))
    if file is None:
        log.warning("the plan names no weights: these are random")
    measurement = Measurement(SIMULATED, measured(folder))
    log.info("sealed: %s   an enclave of it, simulated by this cloven, has the measurement %s", out, measurement)


@enclave.command("seal-input")
def seal_input(
    sealed: SealedFolder,
    picture: Annotated[Path, typer.Argument(help="A picture, or a folder of them.", metavar="PICTURE")],
    owner_key: OwnerKey,
    out: Annotated[Path, typer.Option(help="A file, or for a folder a folder.")],
) -> None:
    """Encrypt pictures for the enclave of a sealed folder."""
    from cloven.enclave import sealing
    from cloven.enclave.owner import data_key, read_owner_key
    from cloven.enclave.sealed_folder import INPUT, opened
    from cloven.zoo.folders import picture_size

    folder = opened(sealed)
    key = data_key(read_owner_key(owner_key), folder.id)
    files = sorted(p for p in picture.iterdir() if p.is_file()) if picture.is_dir() else [picture]
    if missing := [str(file) for file in files if not file.is_file()] or ([] if files else [str(picture)]):
        raise ClovenError(f"{', '.join(missing)}: no picture there")
    stems = [file.stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ClovenError(f"several pictures of {picture} would become {twice[0]}.sealed; give each its own name")
    for file in files:  # the enclave would refuse it, and end the run for all
        with _naming(file):
            picture_size(read_bytes(file))
    if picture.is_dir():
        out.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = out / f"{file.stem}.sealed" if picture.is_dir() else out
        sealing.seal(read_bytes(file), target, key=key, name=folder.name(INPUT))
    log.info("%d sealed: %s", len(files), out)


@enclave.command()
def release(
    sealed: SealedFolder,
    owner_key: OwnerKey,
    to: Annotated[str, typer.Option(help="HOST:PORT where `cloven enclave run` waits.")],
    expect: Annotated[
        str,
        typer.Option(help="The measurement that the enclave must have: sgx:DIGITS, tdx:DIGITS, simulated:DIGITS."),
    ],
    collateral: Annotated[
        Path | None, typer.Option(help="Intel's collateral, JSON, with which the hardware quote is verified.")
    ] = None,
    fetch_collateral: Annotated[
        str | None, typer.Option(help="URL of a PCCS to fetch it from; written to --collateral, if that is given.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="What is accepted of the platform, TOML; left out, only a TCB up to date.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="simulated or gramine-direct: accept an enclave that proves NOTHING.")
    ] = None,
) -> None:
    """Release the data key to an enclave, once its hardware quote proves that it has the expected measurement.

    An enclave without hardware gets the key only if the expected measurement names its kind and --accept does too.
    """
    from cloven.enclave.endpoint import deliver
    from cloven.enclave.owner import read_owner_key
    from cloven.enclave.quote import Expected, Measurement
    from cloven.enclave.sealed_folder import opened

    if policy is not None and collateral is None and fetch_collateral is None:
        raise ClovenError(
            "--policy requires --collateral or --fetch-collateral: it judges a verified hardware quote"
        )
    key, folder_id, measurement = read_owner_key(owner_key), opened(sealed).id, Measurement.parse(expect)
    verifier = _verifier(collateral, policy, fetch_collateral, to)
    demand = Expected(measurement, verifier, accept)
    quote = deliver(to, expect=demand, owner_key=key, folder_id=folder_id)
    log.info("released. %s", quote.words)
    log.info("the run is %s: open its results with --run", quote.run)


def _verifier(collateral: Path | None, policy: Path | None, url: str | None, to: str) -> Verifier | None:
    """Return what verifies hardware quotes; None without collateral.

    The collateral depends on the platform, so an enclave is asked for a quote before it is fetched; the quote that
    the key is released for is another one.
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


@enclave.command("open")
def open_result(
    sealed: SealedFolder,
    result: Annotated[
        Path,
        typer.Argument(help="What `cloven enclave run --out` wrote: the folder, or one result.", metavar="RESULT"),
    ],
    owner_key: OwnerKey,
    inputs: Annotated[
        Path,
        typer.Option(
            "--input", help="Your own copy of the picture or of the sealed input; for a folder, a folder."
        ),
    ],
    run: Annotated[str, typer.Option(help="The run that `cloven enclave release` printed, 64 hexadecimal digits.")],
    as_json: AsJson = False,
) -> None:
    """Open results that left the enclave sealed, if they belong to your inputs and to the run."""
    from cloven.enclave.owner import data_key, read_owner_key
    from cloven.enclave.sealed_folder import opened
    from cloven.enclave.sealed_results import open_results

    folder = opened(sealed)
    if inputs.is_dir() != result.is_dir():
        raise ClovenError(f"--input {inputs} and {result} must both be folders, or both be files")
    own = sorted(p for p in inputs.iterdir() if p.is_file()) if inputs.is_dir() else [inputs]
    if not own:
        raise ClovenError(f"{inputs} is empty; give the folder of your pictures")
    pairs = [(result / f"{file.stem}.result", file) for file in own] if result.is_dir() else [(result, inputs)]
    key = data_key(read_owner_key(owner_key), folder.id)
    found, notes = open_results(folder, key, pairs, run=run)
    for note in notes if result.is_dir() else []:
        log.warning(note)
    _classes([path.name for path, _ in pairs], [one.logits[0] for one in found], as_json=as_json)


def _classes(names: Sequence[str], logits: Sequence[Sequence[float]], *, as_json: bool) -> None:
    found = [(name, row.index(max(row)), row) for name, row in zip(names, logits, strict=True)]
    if as_json:
        print_json([{"input": name, "class": number, "logits": row} for name, number, row in found])
    else:
        rows = [[name, number, f"{max(row):.4f}"] for name, number, row in found]
        printing.table("results", ["input", "class", "logit"], rows)


# --- who runs it ------------------------------------------------------------------------------------------------


@enclave.command()
def run(
    sealed: SealedFolder,
    inputs: Annotated[Path, typer.Option("--input", help="A sealed picture, or a folder of *.sealed.")],
    backend: Annotated[str, typer.Option(help="simulated, gramine-direct or gramine-sgx.")] = "simulated",
    accelerator: Annotated[str, typer.Option(help="What runs the rear: cpu or cuda.")] = "cpu",
    handover: Annotated[str, typer.Option(help="memory, file (S2's) or pipe; Gramine's is pipe.")] = "",
    memory: Annotated[
        str, typer.Option(help="Of the trusted half, such as 4G; auto: what the owner reckoned.")
    ] = "auto",
    threads: Annotated[int, typer.Option(help="Of each half.", min=1)] = 1,
    listen: Annotated[str, typer.Option(help="HOST:PORT where the owner's release is waited for.")] = "127.0.0.1:0",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Wait where other machines reach it: they learn no key, but can end the run with a wrong one.",
        ),
    ] = False,
    owner_key: Annotated[
        Path | None, typer.Option(help="Where owner and runner are one: release the key at once.")
    ] = None,
    manifest: Annotated[Path, typer.Option(help="Gramine's, for the gramine backends.")] = Path("cloven.manifest"),
    out: Annotated[Path | None, typer.Option(help="A new folder for what comes out, and the trace.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run sealed inputs: the front inside the trusted half, the rear on the accelerator; show S2's six steps."""
    from cloven.enclave.backends import named
    from cloven.enclave.manifest_check import parse_size
    from cloven.enclave.run_report import TRACE, keep
    from cloven.enclave.runner import EnclaveOptions, running
    from cloven.enclave.sealed_folder import opened

    folder, how = opened(sealed), named(backend)
    files = sorted(inputs.glob("*.sealed")) if inputs.is_dir() else [inputs]
    problems = [
        f"{file} is not there; give what `cloven enclave seal-input` wrote" for file in files if not file.is_file()
    ]
    if not files:
        problems.append(f"{inputs} has no *.sealed; make some: cloven enclave seal-input")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        problems.append(f"{out} is there already; give a new folder")
    if problems:
        raise ClovenError(problems)
    if out is not None:  # now, as the results of a run cannot be had again
        out.mkdir(parents=True, exist_ok=True)
    size = folder.enclave_bytes if memory == "auto" else parse_size(memory)
    asked = EnclaveOptions(sealed, how, accelerator, handover or how.ways[0], size, threads, manifest)  # type: ignore[arg-type]
    with running(asked) as at_work:
        released = _released(at_work, folder, owner_key, listen, insecure=insecure)
        at_work.split()
        report = keep(at_work, folder.id, released, [(file, _answer(at_work, file)) for file in files], out)
    for result in report.results:
        if result.file is not None:
            log.info("the result of %s: %s", result.input, result.file)
    if out is not None:
        log.info("the times: %s", out / TRACE)
    elif report.result == "sealed":
        log.warning("the results left the enclave sealed and were not kept; give --out FOLDER to keep them")
    document = report.model_dump(mode="json")
    if as_json:
        print_json(document)
        return
    printing.enclave(document)
    clear = [(result.input, result.logits) for result in report.results if result.logits is not None]
    if clear:
        _classes([name for name, _ in clear], [row for _, row in clear], as_json=False)


def _answer(at_work: Enclave, file: Path) -> Inference:
    content = read_bytes(file)
    with _naming(file):
        return at_work.infer([content])


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except ClovenError as error:
        raise ClovenError([f"{file}: {problem}" for problem in error.problems]) from error


def _released(
    at_work: Enclave, folder: Sealed, owner_key: Path | None, listen: str, *, insecure: bool
) -> str | None:
    """Wait until the owner has released the key; where that is the same person, release it and return the run."""
    import socket

    from cloven.enclave.endpoint import serve_release
    from cloven.enclave.owner import read_owner_key
    from cloven.enclave.timing import release_at_once
    from cloven.runtime.link.address import check_address

    if owner_key is not None:
        run = release_at_once(at_work, folder, read_owner_key(owner_key)).run
        log.info("the run is %s: open its results with --run", run)
        return run
    host, port = check_address(listen, None, insecure, keys=False)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        words = "cloven enclave release %s --owner-key KEY --to %s:%d --expect MEASUREMENT"
        shown = f"[{host}]" if ":" in host else host
        log.info(f"waiting for the owner: {words}", folder.path, shown, listener.getsockname()[1])
        listener.settimeout(MINUTES)
        serve_release(listener, at_work.ask, 10.0)
    return None


@enclave.command()
def manifest(
    sealed: SealedFolder,
    enclave_size: Annotated[
        str, typer.Option(help="Such as 4G, a power of two; auto: what the owner reckoned.")
    ] = "auto",
    threads: Annotated[int, typer.Option(help="That PyTorch computes on.", min=1)] = 1,
    attestation: Annotated[str, typer.Option(help="dcap, or none where nothing is to be proved.")] = "dcap",
) -> None:
    """Print the template of a Gramine manifest for the trusted half."""
    from cloven.enclave import manifest as gramine
    from cloven.enclave.manifest_check import parse_size
    from cloven.enclave.sealed_folder import opened

    if attestation not in ("dcap", "none"):
        raise ClovenError(f"--attestation is {attestation!r}; choose dcap or none")
    size = opened(sealed).enclave_bytes if enclave_size == "auto" else parse_size(enclave_size)
    words = ["--backend", "gramine-sgx" if attestation == "dcap" else "gramine-direct", "--memory", str(size),
             "--way", "pipe", "--threads", str(threads)]  # fmt: skip
    given = gramine.enclosed(
        sealed,
        gramine.Python.here(),
        enclave_bytes=size,
        words=words,
        threads=threads,
        attestation=attestation,  # type: ignore[arg-type]
    )
    typer.echo(gramine.template(given), nl=False)
