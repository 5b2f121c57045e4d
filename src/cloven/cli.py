"""The command line: parsing and printing, nothing else. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.errors import ClovenError, require

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Program

OK, MISSED, WRONG, STOPPED = 0, 1, 2, 130
"""Exit codes: fine; a threshold missed; usage or error; stopped by the user."""

EXTRAS = {"torch": "audit", "sklearn": "audit", "matplotlib": "audit", "jinja2": "audit", "PIL": "audit"}
"""Which extra brings an optional package."""

WIDE = 180
"""The width of tables that go to a file or a pipe."""

app = typer.Typer(
    help="Divide a CNN over several machines, run it, and measure what a listener on each link can rebuild.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
log = logging.getLogger("cloven")


def main() -> None:
    """The ``cloven`` command: errors in a person's input become one message and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: waiting threads that spin take the cores
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        app()
    except ClovenError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(require(EXTRAS[package], error))
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: ClovenError) -> None:
    for problem in error.problems:
        print(f"cloven: {problem}", file=sys.stderr)  # noqa: T201
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

ModelName = Annotated[str, typer.Argument(help="A model of the zoo: lenet5.", metavar="MODEL")]
InputSize = Annotated[str, typer.Option(help="One image: CHANNELSxHEIGHTxWIDTH.", metavar="CxHxW")]
Classes = Annotated[int, typer.Option(help="How many classes.", min=2)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DataSet = Annotated[
    str, typer.Option("--data", help="digits, mnist:DIR, cifar10:DIR or folder:DIR.", metavar="SPEC")
]


def _numbers(text: str, count: int, option: str, example: str) -> tuple[int, ...]:
    """``3x32x32`` as numbers."""
    if not re.fullmatch(rf"\d+(x\d+){{{count - 1}}}", text):
        raise ClovenError(f"{option} is {text!r}; expected {count} numbers such as {example}")
    return tuple(int(part) for part in text.split("x"))


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = _numbers(text, 3, "--input-size", "1x28x28")
    return channels, height, width


def _names(text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _untrained(model: str, shape: tuple[int, int, int], classes: int) -> Graph:
    import torch

    from cloven.graph.capture import capture
    from cloven.zoo.models import build

    return capture(build(model, shape=shape, classes=classes), torch.zeros(1, *shape))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _table(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """A table on standard output; numbers to the right."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", header_style="bold", box=SIMPLE, pad_edge=False)
    for i, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(escape(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console = Console()
    # Where nobody looks (a pipe, a file) lines are not folded to a guessed width.
    (console if console.is_terminal else Console(width=WIDE)).print(table)


# --- inspect --------------------------------------------------------------------------------------------------


@app.command()
def inspect(
    model: ModelName,
    input_size: InputSize = "1x28x28",
    classes: Classes = 10,
    as_json: AsJson = False,
) -> None:
    """Show a model's ops and every possible cut: tensors, shapes, bytes, MACs before and after."""
    from cloven.graph.cuts import cuts, described

    graph = _untrained(model, _shape(input_size), classes)
    ops, every = described(graph), [cut.row() for cut in cuts(graph)]
    if as_json:
        _print_json({"model": model, "ops": ops, "cuts": every})
        return
    columns = ["op", "kind", "reads", "shape", "bytes", "MACs", "weight bytes"]
    rows = [[o["op"], o["kind"], ", ".join(o["reads"]), _by(o["shape"]), o["bytes"], o["macs"], o["weight_bytes"]]
            for o in ops]  # fmt: skip
    _table(f"{model}: ops, for one image", columns, rows)
    columns = ["cut after", "module", "tensors that cross", "bytes", "MACs before", "MACs after", "before"]
    _table(f"{model}: every cut", columns, [[
        c["after"], c["module"], "; ".join(f"{t['value']} {_by(t['shape'])}" for t in c["tensors"]), c["bytes"],
        c["macs_before"], c["macs_after"], f"{c['before_percent']:.1f} %",
    ] for c in every])  # fmt: skip


def _by(shape: list[int]) -> str:
    return "x".join(map(str, shape))


# --- plan -----------------------------------------------------------------------------------------------------


@app.command()
def plan(
    model: ModelName,
    strategy: Annotated[str, typer.Option(help="vertical, horizontal or data.")],
    devices: Annotated[int | None, typer.Option(help="How many devices.", min=1)] = None,
    cuts: Annotated[str, typer.Option(help="vertical: layers to cut after, e.g. conv2,pool2 or 2,3,5.")] = "",
    axis: Annotated[str, typer.Option(help="horizontal: out_channels.")] = "out_channels",
    grid: Annotated[str, typer.Option(help="data: ROWSxCOLUMNS of tiles.")] = "",
    until: Annotated[str, typer.Option(help="data: the last tiled layer; left out, as deep as it pays.")] = "",
    halo: Annotated[str, typer.Option(help="data: exact, or none (zero beyond a tile's own share).")] = "exact",
    routing: Annotated[str, typer.Option(help="direct, or star through the first device.")] = "direct",
    input_size: InputSize = "1x28x28",
    classes: Classes = 10,
    out: Annotated[Path | None, typer.Option(help="Write the plan (TOML) here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Divide a model: print what crosses each link, and write the plan to a file."""
    from cloven.files import write_text
    from cloven.papers.s1 import resolve
    from cloven.partition.plan import check_document, device_names, problems, program

    shape = _shape(input_size)
    entries: dict[str, Any] = {"kind": strategy}
    usual = 2
    if strategy == "vertical":
        entries["cuts"] = [resolve(model, name) for name in _names(cuts)]
        usual = len(entries["cuts"]) + 1 if cuts else usual
    elif strategy == "horizontal":
        entries["axis"] = axis
    elif strategy == "data":
        entries |= {"halo": halo} | ({"until": resolve(model, until)} if until else {})
        entries |= {"grid": list(_numbers(grid, 2, "--grid", "2x2"))} if grid else {}
        usual = entries["grid"][0] * entries["grid"][1] if grid else 4
    misplaced = [
        f"{option} belongs to --strategy {belongs}; the strategy is {strategy}"
        for option, value, belongs in (
            ("--cuts", cuts, "vertical"),
            ("--grid", grid, "data"),
            ("--until", until, "data"),
        )
        if value and strategy != belongs
    ]
    made, found = check_document({
        "model": {"name": model, "input": list(shape), "classes": classes}, "strategy": entries,
        "devices": list(device_names(devices or usual)), "routing": routing,
    })  # fmt: skip
    graph = _untrained(model, shape, classes)
    _raise(misplaced + found + (problems(graph, made) if made is not None else []))
    assert made is not None
    compiled = program(graph, made)
    if out is not None:
        write_text(out, made.toml())
    _show_program(made, compiled, as_json=as_json)
    if out is not None:
        log.info("plan written to %s", out)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ClovenError(problems)


def _show_program(made: Plan, compiled: Program, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [transfer.row() for transfer in compiled.transfers]
    loads: list[dict[str, Any]] = [{"device": d, "macs": compiled.macs(d)} for d in compiled.devices]
    links: list[dict[str, Any]] = [{"link": list(link), "bytes": compiled.sent(link)} for link in compiled.links]
    if as_json:
        _print_json({
            "plan": made.title(), "exact": compiled.exact, "transfers": rows, "links": links, "devices": loads,
            "bytes": sum(t.bytes for t in compiled.transfers),
        })  # fmt: skip
        return
    columns = ["step", "from", "to", "value", "share", "shape", "bytes"]
    _table(f"{made.title()}: what crosses, for one image", columns, [
        [r["step"], r["source"], r["target"], r["value"], r["share"], _by(r["shape"]), r["bytes"]] for r in rows
    ])  # fmt: skip
    _table("links", ["link", "bytes"], [[" -> ".join(row["link"]), row["bytes"]] for row in links])
    _table("devices", ["device", "MACs"], [[row["device"], row["macs"]] for row in loads])
    if not compiled.exact:
        typer.echo("Without halo the result is NOT the model's; `cloven run --verify` measures by how much.")


# --- run ------------------------------------------------------------------------------------------------------


@app.command()
def run(
    plan_file: Annotated[Path, typer.Argument(help="A plan written by `cloven plan`.", metavar="PLAN")],
    data: DataSet,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with the whole model; exit 1 if not equal.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a plan on a data set's held-out images; the CNN is trained on the rest, or taken from the cache."""
    from cloven.graph.capture import capture
    from cloven.partition.plan import check, problems, program, read
    from cloven.runtime.check import compare
    from cloven.zoo.prepared import prepared

    made, found = check(read(plan_file), str(plan_file))
    if made is None:
        raise ClovenError(found)
    spec = made.model
    _raise(found + problems(_untrained(spec.name, spec.input, spec.classes), made))
    with _progress() as progress:
        ready = prepared(spec.name, data, shape=spec.input, classes=spec.classes, seed=seed, progress=progress)
    images = ready.test.tensor()
    graph = capture(ready.model, images[:1])
    result = compare(program(graph, made), graph, images, ready.test.labels)
    shown = {"plan": made.title(), **result.row()}
    if as_json:
        _print_json(shown)
    else:
        _table(made.title(), ["", ""], [[key.replace("_", " "), _said(value)] for key, value in shown.items()
                                        if key != "plan"])  # fmt: skip
    if verify and not result.equal:
        log.warning("NOT equal to the whole model: %s", result.why())
        raise typer.Exit(MISSED)
    if verify:
        log.info("equal to the whole model on %d images", len(images))


def _said(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- audit ----------------------------------------------------------------------------------------------------


@app.command()
def audit(
    model: ModelName = "lenet5",
    data: DataSet = "digits",
    auxiliary: Annotated[
        str, typer.Option(help="The attacker's images: photos, folder:DIR, ...", metavar="SPEC")
    ] = "photos",
    out: Annotated[Path | None, typer.Option(help="The results' folder; left out, runs/MODEL-DATA.")] = None,
    strategies: Annotated[str, typer.Option(help="Which strategies.")] = "vertical,horizontal,data",
    layers: Annotated[str, typer.Option(help="Where to listen; left out, S1's layers: 2,3,5.")] = "",
    devices: Annotated[int, typer.Option(help="Devices of horizontal and data: 2, 4 or 8.", min=2)] = 4,
    view: Annotated[str, typer.Option(help="paper (what S1 counts), full (all on a link) or both.")] = "both",
    links: Annotated[str, typer.Option(help="Full view: first (between the first two devices) or all.")] = "first",
    pairs: Annotated[int | None, typer.Option(help="How many auxiliary images; left out, 1000 or 5000.")] = None,
    victims: Annotated[int | None, typer.Option(help="How many victim images; left out, all held out.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each attack.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; left out, one a core.", min=1)] = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop; write nothing.")] = False,
) -> None:
    """Attack what crosses the links and write a report. Started again, it goes on where it stopped."""
    from cloven.audit import study
    from cloven.papers import s1
    from cloven.zoo.training import cache_dir

    settings = study.Settings(
        model=model,
        data=data,
        auxiliary=auxiliary,
        layers=_listened(model, layers),
        strategies=_names(strategies),
        devices=devices,
        views=_choice("--view", view, {"both": ("paper", "full"), "paper": ("paper",), "full": ("full",)}),
        every_link=_choice("--links", links, {"first": False, "all": True}),
        pairs=pairs or (1000 if auxiliary == "photos" else 5000),
        victims=victims,
        epochs=epochs,
        seed=seed,
    )
    chain_for = s1.decoder(model)
    if dry_run:
        _dry_run(settings, chain_for, as_json=as_json)
        return
    folder = out or Path("runs") / f"{model}-{data.partition(':')[0]}"
    with _progress() as progress:
        try:
            summary = study.execute(
                settings, chain_for, s1.expectations(model), lambda shape: s1.notes(model, shape),
                out=folder, cache=cache_dir(), jobs=jobs or _cores(), progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            log.warning("stopped; finished cells are kept in %s: the same command goes on from there", folder)
            raise typer.Exit(STOPPED) from None
    page = _write_report(folder)
    if as_json:
        _print_json(summary)
    else:
        _show_summary(summary)
    log.info("report: %s   summary: %s", page, folder / "summary.json")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choice(option: str, text: str, known: Mapping[str, Any]) -> Any:
    if text not in known:
        raise ClovenError(f"{option} is {text!r}; choose from {', '.join(known)}")
    return known[text]


def _listened(model: str, text: str) -> dict[str, str]:
    """The layers to listen at, path -> label."""
    from cloven.papers.s1 import layers_of, resolve

    usual = layers_of(model)
    if not text:
        return usual
    return {path: usual.get(path, path) for path in (resolve(model, name) for name in _names(text))}


def _dry_run(settings: Any, chain_for: Any, *, as_json: bool) -> None:
    from cloven.audit import study

    study.check(settings)
    images = study.load_images(settings)
    graph = study.untrained(settings, images.shape, len(images.victims.classes))
    rows: list[dict[str, Any]] = []
    for case in study.cases_of(graph, settings, chain_for):
        seen = case.cell.observation
        rows.append({
            "strategy": case.target.strategy, "label": case.label, "view": seen.view,
            "link": list(seen.link) if seen.link else None, "crosses": seen.crosses, "bytes": seen.bytes,
            "seen": [str(s) for s in seen.seen],
        })  # fmt: skip
    if as_json:
        _print_json({"cells": rows})
        return
    _table(f"{len(rows)} observations; nothing was trained or written",
           ["strategy", "where", "view", "link", "crosses", "bytes", "seen"], [[
        r["strategy"], r["label"], r["view"], " -> ".join(r["link"] or ["none"]), "yes" if r["crosses"] else "no",
        r["bytes"], "; ".join(r["seen"]),
    ] for r in rows])  # fmt: skip


def _show_summary(summary: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for f in summary["findings"]:
        where = f"{f['strategy']}, {f['label']}"
        link = " > ".join(f["link"]) if f["link"] else "none"
        sent = "yes" if f["crosses"] else "never"
        rows.append(
            [where, f["view"], link, sent, *(f"{_interval(f[s])} {_best(f, s)}" for s in ("agreement", "ssim"))]
        )
    accuracy = f"accuracy {summary['model_accuracy']:.1%}, kappa {summary['model_kappa']:.2f}"
    title = f"{summary['model']} on {summary['data']} ({accuracy}); mean [95 % interval] best floor"
    _table(title, ["what", "view", "link", "sent", "agreement", "SSIM"], rows)
    _table("What S1 expects, and what the numbers show", ["claim", "statement", "difference", "shows"], [
        [o["claim"], o["sentence"], _interval(o["difference"]), o["shows"]] for o in summary["orderings"]
    ])  # fmt: skip
    verdict = summary["verdict"]
    typer.echo(verdict["sentence"] if verdict["given"] else f"No verdict: {verdict['reason']}")


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _best(finding: dict[str, Any], score: str) -> str:
    return f"{max(f[score] for f in finding['floors'].values() if f[score] is not None):.2f}"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error where somebody looks, else a line at each stage and each tenth."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bars: dict[str, Any] = {}
    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*shown, console=console) as progress:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield report


def _line(stage: str, done: int, total: int) -> None:
    if done == total or done == 0 or (10 * done) // total != (10 * (done - 1)) // total:
        log.info("%s: %d of %d", stage, done, total)


# --- report ---------------------------------------------------------------------------------------------------


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `cloven audit` wrote.", metavar="RUN")],
) -> None:
    """Write the report of a finished run again."""
    log.info("report: %s", _write_report(folder))


def _write_report(folder: Path) -> Path:
    from cloven.report.folder import write

    return write(folder)


if __name__ == "__main__":
    main()
