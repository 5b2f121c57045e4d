"""The command line: parsing and printing, nothing else. Heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cloven import console, enclaves, experiments, machines, reproductions
from cloven.errors import ClovenError, printable, require, system_error, tried
from cloven.machines import DAY

if TYPE_CHECKING:
    from torch.nn import Module

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.runtime.check import Comparison
    from cloven.zoo.images import Images
    from cloven.zoo.prepared import Prepared

MISSED, WRONG = 1, 2
"""Exit codes besides 0: a threshold missed; wrong usage or input; and `console.STOPPED`."""

EXTRAS = {"dpkt": "tap", "hyperframe": "tap", "fastapi": "serve", "uvicorn": "serve", "multipart": "serve",
          "numba": "ascon", "onnx": "audit", "onnxruntime": "edge",
          "torch": "audit", "sklearn": "audit", "matplotlib": "audit", "jinja2": "audit", "PIL": "audit",
          "torchvision": "models", "timm": "models"}  # fmt: skip
"""Which extra brings an optional package."""


class Commands(TyperGroup):
    """All commands; Ctrl-C ends any of them with a word and exit code 130, and what the system refuses with 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except OSError as error:  # typer would end with 1, "a threshold missed", where the output was closed
            raise system_error(error) from error
        except KeyboardInterrupt:
            log.warning("stopped")
            raise typer.Exit(console.STOPPED) from None


app = typer.Typer(
    cls=Commands,
    help="Divide a CNN over several machines, run it, and measure what a listener on each link can rebuild.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
log = logging.getLogger("cloven")


def main() -> None:
    """The ``cloven`` command: errors in a person's input, and of the system, become a message and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: waiting threads that spin take the cores
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger().handlers[0].setFormatter(_Printable())
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be written fails here, not when Python ends
    except ClovenError as error:
        _fail(error)
    except OSError as error:
        _fail(system_error(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(require(EXTRAS[package], error))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _fail(error: ClovenError) -> None:
    with suppress(OSError):  # nobody can be told
        for problem in error.problems:
            print(printable(f"cloven: {problem}"), file=sys.stderr)  # noqa: T201
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try again when it ends, and fail with another exit code
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
    """Only `--version`; every command has its own options."""


# --- options that several commands share ----------------------------------------------------------------------

ModelName = Annotated[
    str,
    typer.Argument(
        help="lenet5, resnet20, torchvision:NAME, timm:NAME or package.module:factory.", metavar="MODEL"
    ),
]
InputSize = Annotated[
    str | None, typer.Option(help="One image: CHANNELSxHEIGHTxWIDTH; left out, the model's usual.", metavar="CxHxW")
]
Classes = Annotated[int | None, typer.Option(help="How many classes; left out, the model's usual.", min=2)]
Weights = Annotated[
    Path | None,
    typer.Option(help="A file or checkpoint (.safetensors, .pth, .ckpt, .npz, ...), or: pretrained (downloads)."),
]
PlanFile = Annotated[Path, typer.Argument(help="A plan written by `cloven plan`.", metavar="PLAN")]
Window = Annotated[int, typer.Option(help="--cluster: most images in flight.", min=1, max=256)]
Deadline = Annotated[float, typer.Option(help="--cluster: seconds after which an image fails.", min=0.1, max=DAY)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
PICTURES = "Of a picture, transparency is dropped, EXIF's orientation is not applied, and the first frame is read."
DATA = typer.Option(
    "--data", help=f"digits, mnist:DIR, cifar10:DIR, flowers102:DIR or folder:DIR. {PICTURES}", metavar="SPEC"
)


def _numbers(text: str, count: int, option: str, example: str) -> tuple[int, ...]:
    """``3x32x32`` as numbers."""
    if not re.fullmatch(rf"\d+(x\d+){{{count - 1}}}", text):
        raise ClovenError(f"{option} is {text!r}; expected {count} numbers such as {example}")
    return tuple(int(part) for part in text.split("x"))


def _spec(model: str, input_size: str | None, classes: int | None, weights: Path | None) -> dict[str, Any]:
    """The ``[model]`` table of a plan."""
    from cloven.zoo.named import usual

    default = usual(model)
    shape = default.shape if input_size is None else _numbers(input_size, 3, "--input-size", "3x224x224")
    spec = {"name": model, "input": list(shape), "classes": default.classes if classes is None else classes}
    return spec | ({"weights": str(weights)} if weights is not None else {})


def _choice(option: str, text: str, known: Mapping[str, Any]) -> Any:
    if text not in known:
        raise ClovenError(f"{option} is {text!r}; choose from {', '.join(known)}")
    return known[text]


def _graph(spec: Mapping[str, Any]) -> Graph:
    """The graph of a plan's model; where the plan names no weights, with random ones, always the same."""
    import torch

    from cloven.zoo.named import make

    weights = Path(spec["weights"]) if spec.get("weights") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `run --verify` means the model that `bundle` wrote
        model = make(spec["name"], shape=tuple(spec["input"]), classes=spec["classes"], weights=weights)
    return _captured(model, spec)


def _captured(model: Module, spec: Mapping[str, Any]) -> Graph:
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation

    mean, std = normalisation(spec["name"], spec.get("weights")) or (None, None)
    return capture(model, torch.zeros(1, *spec["input"]), mean=mean, std=std)


# --- the commands ---------------------------------------------------------------------------------------------


@app.command()
def inspect(
    model: ModelName,
    input_size: InputSize = None,
    classes: Classes = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's ops and every possible cut: tensors, shapes, bytes, MACs, and the papers' numbers of it."""
    from cloven.graph.cuts import cuts, described
    from cloven.papers.points import points

    graph = _graph(_spec(model, input_size, classes, weights))
    numbers: dict[str, list[str]] = {}
    for point in points(model):
        numbers.setdefault(graph.find(point.path), []).append(point.name)
    ops, every = described(graph), [cut.row() | {"papers": numbers.get(cut.after, [])} for cut in cuts(graph)]
    if as_json:
        console.print_json({"model": model, "ops": ops, "cuts": every})
    else:
        console.ops_and_cuts(model, ops, every)


@app.command()
def plan(
    model: ModelName,
    strategy: Annotated[str, typer.Option(help="vertical, horizontal, data or enclave.")],
    devices: Annotated[int | None, typer.Option(help="How many devices.", min=1)] = None,
    cuts: Annotated[str, typer.Option(help="vertical: layers to cut after, e.g. conv2,pool2 or 2,3,5.")] = "",
    axis: Annotated[
        str, typer.Option(help="horizontal: out_channels, in_channels, fused (out then in), rows or columns.")
    ] = "out_channels",
    shares: Annotated[str, typer.Option(help="horizontal: the devices' proportions, e.g. 2,1,1.")] = "",
    exchange: Annotated[
        str, typer.Option(help="horizontal: after channel-local ops (local), or the layer.")
    ] = "local",
    sums: Annotated[str, typer.Option(help="horizontal: partial sums add up at the hub, or scatter.")] = "hub",
    grid: Annotated[str, typer.Option(help="data: ROWSxCOLUMNS of tiles.")] = "",
    halo: Annotated[str, typer.Option(help="data: exact, or none (zero beyond a tile's own share).")] = "exact",
    start: Annotated[
        str, typer.Option("--from", help="The layer after which to begin; what is before runs on the first device.")
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            help="The last layer divided so; left out, the end, or for tiles as deep as it pays. "
            "enclave: what follows it runs inside again."
        ),
    ] = "",
    then: Annotated[str, typer.Option(help="After --until or the last cut: vertical or horizontal.")] = "",
    inside: Annotated[
        str, typer.Option(help="vertical: PART:DEVICES shares one part (from 1) out horizontally.")
    ] = "",
    routing: Annotated[str, typer.Option(help="direct, or star through the first device.")] = "direct",
    reuse: Annotated[
        bool, typer.Option(help="star: a device keeps its own share, or is sent it back with the rest.")
    ] = True,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="NAME for all links, A-B=NAME for one: none, ascon-128, aes-256-gcm, mtls, ..."),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="Before sending; as --protect: float16, int8, topk:0.1, noise:0.5, dropout:0.3 or none."),
    ] = None,
    input_size: InputSize = None,
    classes: Classes = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan (TOML) here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Divide a model: print what crosses each link, and write the plan to a file."""
    from cloven.files import write_text
    from cloven.partition.options import Options, document, protected, transformed
    from cloven.partition.plan import check_document, described, problems, program

    found: list[str] = []
    layers = _resolved(model, machines.named(cuts), found)
    start, until = (" ".join(_resolved(model, machines.named(name), found)) for name in (start, until))
    options = Options(
        strategy=strategy, devices=devices, cuts=tuple(layers), axis=axis, exchange=exchange, sums=sums,
        shares=tried(lambda: _proportions(shares), found) if shares else None, halo=halo, start=start,
        grid=tried(lambda: _numbers(grid, 2, "--grid", "2x2"), found) if grid else None, until=until, then=then,
        inside=inside,
    )  # fmt: skip
    spec = _spec(model, input_size, classes, weights)
    entries, misplaced = document(options)
    made, wrong = check_document(
        {
            "model": spec, "routing": routing, "reuse": reuse, **protected(protect or []),
            **transformed(transform or []), **entries,
        }
    )  # fmt: skip
    found += misplaced + wrong
    graph = tried(lambda: _graph(spec), found)
    found += problems(graph, made) if graph is not None and made is not None else []
    if found or graph is None or made is None:
        raise ClovenError(found)
    shown = described(made, program(graph, made))
    if out is not None:
        write_text(out, made.toml())
    if as_json:
        console.print_json(shown)
    else:
        console.transfers(shown)
    if out is not None:
        log.info("plan written to %s", out)


def _resolved(model: str, names: tuple[str, ...], problems: list[str]) -> list[str]:
    """Layers by their paths, where a name may be a paper's number; what a name cannot mean is added to problems."""
    from cloven.papers.points import resolve

    found = []
    for name in names:
        try:
            found.append(resolve(model, name))
        except ClovenError as error:
            problems += error.problems
    return found


def _proportions(text: str) -> list[float]:
    try:
        return [float(part) for part in machines.named(text)]
    except ValueError as error:
        raise ClovenError(f"--shares is {text!r}; expected numbers such as 2,1,1") from error


@app.command()
def run(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Annotated[
        Path | None, typer.Option("--input", help=f"A picture, or a folder of them. {PICTURES}")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit 1 unless it is proved to be the whole model's result.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    cluster: Annotated[
        Path | None, typer.Option(help="Run on the workers of this file (TOML) instead of in this process.")
    ] = None,
    window: Window = 8,
    deadline: Deadline = 30.0,
    retry: Annotated[
        bool, typer.Option("--retry", help="Send again what a lost worker or link took along.")
    ] = False,
    patience: Annotated[
        float, typer.Option(help="--retry: seconds to wait for what was lost.", min=1, max=DAY)
    ] = 60.0,
    sent: Annotated[
        Path | None, typer.Option(help="Write what was sent and answered to this folder, for audit --pairs.")
    ] = None,
    auxiliary: Annotated[
        str | None, typer.Option(help="Send these first: the attacker's own images.", metavar="SPEC")
    ] = None,
    queries: Annotated[int, typer.Option(help="--auxiliary: how many of them.", min=2)] = 1000,
    limit: Annotated[int | None, typer.Option(help="At most so many images of --data or --input.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan on pictures or a data set; a CNN of the zoo without weights is trained first, or cached."""
    if problems := machines.useless(context, ON_WORKERS):
        raise ClovenError(problems)
    if cluster is not None:
        from cloven.runtime.cluster.coordinator import Manner

        plan = experiments.check(plan_file, cluster, sent)
        if verify and picture is not None and plan.model.weights is None:
            log.warning("the plan names no weights: the whole model is that of `cloven bundle` without --data")
        given = _given(plan_file, data, picture, verify, seed, limit, auxiliary, queries)
        manner = Manner(window, deadline, patience if retry else 0.0)
        experiments.run(given, cluster, manner, sent, as_json=as_json)
        return
    from cloven.partition.plan import program
    from cloven.runtime.check import compare

    made, graph = _planned(plan_file)
    ready, graph = _ready(made, graph, data, picture, seed)
    images = ready.images if limit is None else ready.images.take(range(min(limit, len(ready.images))))
    result = compare(program(graph, made), graph, images.tensor(), images.labels)
    shown = {"weights": ready.weights, **result.row()}
    if as_json:
        console.print_json({"plan": made.title(), **shown})
    else:
        console.comparison(made.title(), shown)
    if verify:
        _verified(result)


ON_WORKERS = {
    "window": ["cluster"], "deadline": ["cluster"], "retry": ["cluster"], "patience": ["cluster", "retry"],
    "sent": ["cluster"], "auxiliary": ["cluster", "sent"], "queries": ["cluster", "sent", "auxiliary"],
}  # fmt: skip
"""What options of `cloven run` say nothing without."""


@app.command()
def lab(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Annotated[
        Path | None, typer.Option("--input", help=f"A picture, or a folder of them. {PICTURES}")
    ] = None,
    bandwidth: Annotated[str, typer.Option(help="Of every link, e.g. 100mbit; left out, no limit.")] = "",
    delay: Annotated[str, typer.Option(help="Of every link, one way, e.g. 2ms.")] = "0",
    tap: Annotated[str, typer.Option(help="Listen on a link from its first device, e.g. edge0-edge1.")] = "",
    auxiliary: Annotated[
        str | None, typer.Option(help="Send these first: the attacker's own images.", metavar="SPEC")
    ] = None,
    queries: Annotated[int, typer.Option(help="--auxiliary: how many of them.", min=2)] = 1000,
    limit: Annotated[int | None, typer.Option(help="At most so many images of --data or --input.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    window: Annotated[int, typer.Option(help="Most images in flight.", min=1, max=256)] = 8,
    deadline: Annotated[float, typer.Option(help="Seconds after which an image fails.", min=0.1, max=DAY)] = 60.0,
    out: Annotated[Path, typer.Option(help="A folder for all that is written.")] = Path("lab"),
    as_json: AsJson = False,
) -> None:
    """Run a plan on this machine as if on several: namespaces, links, workers, and a tap (needs root, Linux)."""
    from cloven.runtime.cluster.coordinator import Manner

    if problems := machines.useless(context, {"queries": ["auxiliary"]}):
        raise ClovenError(problems)
    wires = experiments.wires(plan_file, bandwidth, delay, tap, out)
    given = _given(plan_file, data, picture, True, seed, limit, auxiliary, queries)
    experiments.lab(given, wires, Manner(window, deadline), out, as_json=as_json)


def _verified(result: Comparison) -> None:
    if not result.equal:
        log.warning(result.verdict())
        raise typer.Exit(MISSED)
    log.info(result.verdict())


def _given(
    plan_file: Path, data: str | None, picture: Path | None, verify: bool, seed: int, limit: int | None,
    auxiliary: str | None, queries: int,
) -> experiments.Given:  # fmt: skip
    """What to send to workers, and how to check it; without data or a check, no model is needed."""
    whole = None
    if data is None and picture is not None and not verify:
        from cloven.zoo.folders import read_pictures

        made = machines.plan_of(plan_file)
        images = read_pictures(picture, made.model.input)
    else:
        from cloven.partition.plan import program

        made, graph = _planned(plan_file)
        ready, graph = _ready(made, graph, data, picture, seed)
        images, whole = ready.images, (program(graph, made), graph) if verify else None
    if limit is not None:
        images = images.take(range(min(limit, len(images))))
    return experiments.Given(made, images, _own(auxiliary, queries, made), whole)


def _own(auxiliary: str | None, queries: int, made: Plan) -> Images | None:
    """The attacker's own images."""
    if auxiliary is None:
        return None
    from cloven.zoo.datasets import load

    return load(auxiliary, shape=made.model.input, limit=queries)


def _planned(plan_file: Path) -> tuple[Plan, Graph]:
    """A plan from a file, checked against its model's graph."""
    from cloven.partition.plan import check, problems, read

    made, found = check(read(plan_file), str(plan_file))
    if made is None:
        raise ClovenError(found)
    graph = tried(lambda: _graph(made.model.model_dump()), found)
    found += problems(graph, made) if graph is not None else []
    if found or graph is None:
        raise ClovenError(found)
    return made, graph


def _ready(made: Plan, graph: Graph, data: str | None, picture: Path | None, seed: int) -> tuple[Prepared, Graph]:
    """What to run a plan on; and its model's graph, another one where the model is trained first."""
    from cloven.zoo.prepared import prepared

    spec = made.model
    with console.progress() as progress:
        ready = prepared(
            spec.name, shape=spec.input, classes=spec.classes, weights=Path(spec.weights) if spec.weights else None,
            data=data, picture=picture, seed=seed, progress=progress,
        )  # fmt: skip
    return ready, _captured(ready.model, spec.model_dump()) if ready.model is not None else graph


@app.command()
def bundle(
    plan_file: PlanFile,
    out: Annotated[Path, typer.Option(help="The bundle's folder; an older bundle there is replaced.")],
    data: Annotated[str | None, DATA] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a folder for each device: ONNX models, weights, steps, hashes; checked against the whole model.

    With --data, a CNN of the zoo without weights is trained first, or taken from the cache, as `cloven run` does.
    """
    from cloven.partition.plan import program
    from cloven.runtime import bundle as bundles

    made, graph = _planned(plan_file)
    if problems := made.transform.unsendable(made.devices):
        raise ClovenError(problems)  # before a model is trained
    images = None
    if data is not None:
        ready, graph = _ready(made, graph, data, None, seed)
        images = ready.images.take(range(min(2, len(ready.images)))).tensor().numpy()
    elif made.model.weights is None:
        log.warning("the plan names no weights: the bundle's are random (or the factory's own)")
    written = bundles.write(
        program(graph, made),
        out,
        model=made.model.name,
        plan=made.toml(),
        images=images,
        protection=made.protection,
    )
    shown = written.summary()
    if as_json:
        console.print_json(shown)
    else:
        console.bundle(str(out), shown)


@app.command()
def audit(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A plan written by `cloven plan`, or a model to divide in all ways.", metavar="MODEL|PLAN"
        ),
    ] = "lenet5",
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(help="The attacker's images: photos, folder:DIR, ... or same (as --data).", metavar="SPEC"),
    ] = "photos",
    out: Annotated[Path | None, typer.Option(help="The results' folder; left out, runs/MODEL-DATA.")] = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="nearest, probe, screen, decoder, residual, cgan, cgan-l1, refine, refine-residual, "
            "paste, enlarge, inpaint."
        ),
    ] = "decoder,probe",
    strategies: Annotated[
        str, typer.Option("--strategies", "--strategy", help="Which strategies; or enclave, cut after each layer.")
    ] = "vertical,horizontal,data",
    layers: Annotated[
        str,
        typer.Option("--layers", "--cuts", help="Where to listen; left out, S1's layers: 2,3,5; s2: that paper's."),
    ] = "",
    devices: Annotated[int, typer.Option(help="Devices of horizontal and data: 2, 4 or 8.", min=2)] = 4,
    view: Annotated[
        str | None, typer.Option(help="paper (what S1 counts), full (all on a link: usual for a plan) or both.")
    ] = None,
    links: Annotated[
        str | None, typer.Option(help="Full view: first (between the first two devices) or all (usual for a plan).")
    ] = None,
    colluding: Annotated[
        list[str] | None, typer.Option(help="Links whose taps are put together.", metavar="A-B,B-C")
    ] = None,
    defences: Annotated[
        str, typer.Option(help="Compare transforms on all links: none,float16,int8,topk:0.1,noise:0.5,dropout:0.5.")
    ] = "",
    pairs: Annotated[
        Path | None, typer.Option(help="Attack what was captured: a folder that `cloven tap --read` wrote.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="What the attacker knows of shapes: given, places, inferred; with --pairs, 0=6x14x14.",
            metavar="HOW",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, if it is not trained here.")] = None,
    judge: Annotated[
        str, typer.Option(help="A second classifier: auto (trained here), none, MODEL or MODEL=WEIGHTS.")
    ] = "auto",
    queries: Annotated[
        int | None, typer.Option(help="How many auxiliary images; left out, 1000 or 5000, or all captured.")
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="The attacker sends each image mirrored too: twice the queries.")
    ] = False,
    victims: Annotated[int | None, typer.Option(help="How many victim images; left out, all held out.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each attack; left out, its own (10 mostly).", min=1)
    ] = None,
    gan_epochs: Annotated[int, typer.Option(help="Epochs of the conditional GAN.", min=1)] = 200,
    seeds: Annotated[int, typer.Option(help="How often each attack is trained.", min=1)] = 1,
    curve: Annotated[
        bool, typer.Option("--curve", help="Attack with fewer pairs too: does the score still rise?")
    ] = False,
    threshold: Annotated[
        float, typer.Option("--threshold", "--threshold-ssim", help="Count images with an SSIM above this.")
    ] = 0.2,
    device: Annotated[
        str, typer.Option(help="Train attacks on cpu, cuda, or auto: cuda if there is one.")
    ] = "auto",
    autocast: Annotated[bool, typer.Option("--bfloat16", help="Train attacks in bfloat16 autocast.")] = False,
    features: Annotated[str, typer.Option(help="Keep captured numbers as float32 or float16.")] = "float32",
    budget: Annotated[
        float,
        typer.Option(help="Gigabytes of captured numbers to keep; with more, they are computed again.", min=0),
    ] = 4.0,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; left out, one a core.", min=1)] = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop; write nothing.")] = False,
) -> None:
    """Attack what crosses the links and write a report. Started again, it goes on where it stopped.

    With --pairs, attack what a tap captured from the wire instead of what a simulation says that it would.
    """
    from cloven import audits

    if pairs is not None:
        _misplaced(context, audits.SIMULATED, "what was captured")
    elif audits.is_plan(model):
        _misplaced(context, audits.PLANNED, "a plan")
    asked = audits.Asked(
        model=model, data=data, auxiliary=auxiliary, attacks=machines.named(attacks),
        strategies=machines.named(strategies), layers=machines.named(layers), devices=devices, view=view,
        links=links, colluding=tuple(colluding or ()), defences=machines.named(defences), pairs=pairs,
        shape=tuple(shape or ()),
        weights=weights, judge=judge, mirror=mirror, queries=queries, victims=victims, epochs=epochs,
        gan_epochs=gan_epochs,        seeds=seeds, curve=curve, threshold=threshold, device=device,
        precision="bfloat16" if autocast else "float32", features=features, budget=budget, seed=seed,
        jobs=jobs or machines.cores(),
    )  # fmt: skip
    work = audits.captured(asked) if pairs is not None else audits.simulated(asked)
    audits.run(work, out, dry_run=dry_run, as_json=as_json)


def _misplaced(context: typer.Context, names: Sequence[str], about: str) -> None:
    """Refuse options that say nothing about what is audited."""
    said = machines.given(context)
    if problems := [f"--{name} says nothing about {about}: leave it out" for name in names if name in said]:
        raise ClovenError(problems)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `cloven audit` wrote.", metavar="RUN")],
) -> None:
    """Write the report of a finished run again."""
    from cloven.reporting.folder import write

    log.info("report: %s", write(folder))


machines.add_to(app)
app.add_typer(enclaves.enclave, name="enclave")
app.add_typer(reproductions.papers, name="reproduce")

if __name__ == "__main__":
    main()
