"""The command ``cloven advise``, which recommends a division."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from cloven.cli.exits import MISSED
from cloven.cli.models import ModelOptions, prepared_for, resolved
from cloven.cli.options import (
    ATTACKS,
    DATA,
    IMAGES,
    LIMITS,
    SIZES,
    AsJson,
    Classes,
    InputSize,
    Jobs,
    Mean,
    Seed,
    Std,
    Weights,
    cores,
    flag,
    given,
    names_in,
    quantity,
)
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.advising.advice import Advice, AdviceReport
    from cloven.auditing.results import Results
    from cloven.cost.cluster import Cluster
    from cloven.graph.graph import Graph
    from cloven.partition.plan import ModelSpec
    from cloven.zoo.images import Images

log = logging.getLogger("cloven")

TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
ENERGIES = {"mJ": 1e-3, "J": 1.0}

OPTIONS = {
    "latency": "--max-latency",
    "throughput": "--min-throughput",
    "energy": "--max-energy",
    "memory": "--max-memory",
    "pixel_leakage": "--max-pixel-leakage",
    "label_leakage": "--max-label-leakage",
}
"""The options of the limits."""

RECORDED = (
    "data",
    "auxiliary",
    "queries",
    "victims",
    "input_size",
    "classes",
    "weights",
    "mean",
    "std",
    "seed",
)
"""The options of the model and the images, which an audit has recorded."""


def _limit(help_text: str, metavar: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help_text, metavar=metavar, rich_help_panel=LIMITS)
    return option


def advise(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="lenet5, resnet20, torchvision:NAME, timm:NAME or package.module:factory.")
    ] = "lenet5",
    cluster: Annotated[
        str,
        typer.Option(
            help="Devices and links (TOML), with their profiles; default: three devices that come with cloven.",
            metavar="FILE",
        ),
    ] = "three-devices",
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder that `cloven audit` wrote: use its model and images, and what it measured.",
            metavar="FOLDER",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images: photos, folder:DIR, ...", metavar="SPEC", rich_help_panel=IMAGES
        ),
    ] = "photos",
    queries: Annotated[
        int, typer.Option(help="Number of --auxiliary images.", min=20, metavar="N", rich_help_panel=IMAGES)
    ] = 400,
    victims: Annotated[
        int,
        typer.Option(
            help="Number of victim images: one half for the search, the other to attack the plan again.",
            min=40,
            metavar="N",
            rich_help_panel=IMAGES,
        ),
    ] = 200,
    attacks: Annotated[
        str, typer.Option(help="Attacks on every tap.", metavar="NAME,...", rich_help_panel=ATTACKS)
    ] = "residual,probe,mlp-probe,conv-probe",
    max_latency: Annotated[str, _limit("Largest latency of an image, e.g. 300ms.", "TIME")] = "",
    min_throughput: Annotated[float | None, _limit("Smallest throughput in images per second.", "N")] = None,
    max_energy: Annotated[str, _limit("Largest energy per image, e.g. 0.5J.", "ENERGY")] = "",
    max_memory: Annotated[str, _limit("Largest memory on a device, e.g. 200MB.", "SIZE")] = "",
    max_pixel_leakage: Annotated[
        float, _limit("Largest leakage of the pixels at a tap; 1: no limit.", "SHARE")
    ] = 0.2,
    max_label_leakage: Annotated[
        float, _limit("Largest leakage of the labels at a tap; 1: no limit.", "SHARE")
    ] = 0.3,
    minimise: Annotated[
        str, _limit("latency, energy, traffic, or throughput (as large as possible).", "NAME")
    ] = "latency",
    budget: Annotated[
        str, typer.Option(help="Time for attacks; one that takes longer is cut short.", metavar="TIME")
    ] = "10min",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also execute the best few divisions in a laboratory on this machine, and recommend the fastest. "
            "Requires Linux, root and iproute2.",
            rich_help_panel=LIMITS,
        ),
    ] = False,
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the plan and the report; default: runs/advice-MODEL.", metavar="FOLDER"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recommend a division: the cheapest one that meets the limits on cost and leakage.

    Every exposed link, and every device that is not trusted, is attacked. Links that leak more than a limit are
    encrypted. The plan is written to plan.toml. Exit code 1: no plan meets the limits.
    """
    from cloven.advising.advise import advise as advised
    from cloven.advising.alternatives import Objective
    from cloven.advising.limits import Limits, unreachable, wrong_limits
    from cloven.auditing.suite import AttackSuite
    from cloven.cost.cluster import Cluster
    from cloven.runtime.lab.emulated_cluster import EmulatedCluster

    problems: list[str] = []

    def read(text: str, option: str, units: dict[str, float]) -> float | None:
        return tried(lambda: quantity(text, option, units), problems) if text else None

    values = {
        "latency": read(max_latency, "--max-latency", TIMES),
        "throughput": min_throughput,
        "energy": read(max_energy, "--max-energy", ENERGIES),
        "memory": read(max_memory, "--max-memory", SIZES),
        "pixel_leakage": None if max_pixel_leakage == 1 else max_pixel_leakage,
        "label_leakage": None if max_label_leakage == 1 else max_label_leakage,
    }
    problems += wrong_limits(values, OPTIONS)
    seconds = read(budget, "--budget", TIMES)
    if seconds == 0:
        problems.append(f"--budget must be more than 0, got {budget}")
    if out is not None and out.exists() and not out.is_dir():
        problems.append(f"{out} is a file; give a folder for the results (--out)")
    problems += AttackSuite(names_in(attacks)).problems()
    if minimise not in get_args(Objective):
        problems.append(f"--minimise is {minimise!r}; expected one of {', '.join(get_args(Objective))}")
    limits = None if problems else Limits(**values)
    devices = tried(lambda: Cluster.named(cluster), problems)
    problems += [] if limits is None or devices is None else unreachable(limits, minimise, devices)
    problems += _unmeasurable(cluster, minimise, devices) if measure else []
    found, present = None, given(context)
    if from_run is None:
        options = ModelOptions(model, input_size, classes, weights, mean, std)
        found = tried(lambda: resolved(options), problems)
    else:
        problems += [f"{flag(name)} cannot be used with --from" for name in RECORDED if name in present]
    if problems or limits is None or devices is None or seconds is None:
        raise ClovenError(problems)
    if from_run is not None:
        subject = _audited(from_run, model if "model" in present else None)
    else:
        assert found is not None
        subject = _prepared(found, data, auxiliary, queries, victims, seed)
    emulated = EmulatedCluster.of(subject.graph, subject.spec, devices) if measure else None
    with report_progress() as progress:
        advice = advised(
            subject.graph,
            devices,
            auxiliary=subject.auxiliary,
            victims=subject.victims,
            limits=limits,
            minimise=minimise,  # type: ignore[arg-type]
            attacks=names_in(attacks),
            budget=seconds,
            results=subject.results,
            measure=None if emulated is None else emulated.latency,
            jobs=jobs or cores(),
            progress=progress,
        )
    if emulated is not None:
        used = dict.fromkeys(name for one in advice.report.executed for name in one.devices)
        untested = (*advice.report.untested, *(emulated.left_out(list(used)) if used else ()))
        report = advice.report.model_copy(update={"untested": untested})
        advice = replace(advice, report=report)
    folder = out or Path("runs") / f"advice-{subject.spec.name.replace(':', '-')}"
    _write(advice, subject.spec, folder)
    if as_json:
        print_json(advice.report.model_dump(mode="json"))
    else:
        print_advice(advice.report)
    log.info("written to %s", folder)
    if advice.plan is None:
        raise typer.Exit(MISSED)


def _unmeasurable(name: str, minimise: str, cluster: Cluster | None) -> list[str]:
    """Return why divisions over a cluster cannot be executed in a laboratory."""
    from cloven.runtime.lab.emulated_cluster import unmet

    found = [f"--measure requires --minimise latency, got {minimise}"] if minimise != "latency" else []
    if cluster is None:
        return found
    if addresses := [device for device, one in cluster.devices.items() if one.address is not None]:
        found.append(
            f"--measure executes divisions in a laboratory on this machine, but {name} has addresses of workers "
            f"({', '.join(addresses)}). A worker holds the bundle of one plan, and cannot execute others. Leave "
            "--measure out, start workers with the recommended plan, and run `cloven estimate PLAN --cluster FILE "
            "--measure`; or remove the addresses, to execute divisions on this machine"
        )
    return found + unmet(cluster)


@dataclass(frozen=True, eq=False)
class _Attacked:
    """A model, the images for attacks on it, and perhaps an earlier audit."""

    spec: ModelSpec
    graph: Graph
    auxiliary: Images
    victims: Images
    results: Results | None = None


def _prepared(
    found: tuple[ModelSpec, Graph], data: str, auxiliary: str, queries: int, victims: int, seed: int
) -> _Attacked:
    """Return a model by the options, trained if it has no weights, and the images for attacks on it."""
    from cloven.zoo.datasets import load
    from cloven.zoo.images import spread

    spec, graph = found
    ready, graph = prepared_for(spec, graph, data, None, seed)
    tests = ready.images
    chosen = tests.take(spread(tests.labels, len(tests), victims))
    return _Attacked(spec, graph, load(auxiliary, shape=spec.input, limit=queries), chosen)


def _audited(folder: Path, model: str | None) -> _Attacked:
    """Return the model of an audit, its images, and what it measured.

    Raises:
        ClovenError: if the folder holds no such audit, or one of another model than the given one.
    """
    from cloven.auditing.audited_run import audited_run

    with report_progress() as progress:
        run = audited_run(folder, progress)
    subject = run.subject
    if model is not None and model != subject.model:
        raise ClovenError(f"{folder} holds an audit of {subject.model}, got the model {model}; leave the model out")
    size = "x".join(map(str, run.graph.input.shape))
    mean, std = (",".join(map(str, numbers or ())) for numbers in (subject.mean, subject.std))
    (classes, *_) = run.graph.by_name[run.graph.output].shape
    spec = ModelOptions(subject.model, size, classes, subject.weights, mean, std).spec()
    return _Attacked(spec, run.graph, run.auxiliary, run.unscored, run.results)


def _write(advice: Advice, spec: ModelSpec, folder: Path) -> None:
    """Write the advice, its page, and the plan if there is one."""
    from cloven.files import write_text
    from cloven.reporting.report_file import report

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("plan.toml", "report.html"):  # of an earlier search
        (folder / name).unlink(missing_ok=True)
    write_text(folder / "advice.json", advice.report.text())
    if advice.plan is not None:
        advice.plan.model_copy(update={"model": spec}).save(folder / "plan.toml")
    report(advice, folder / "report.html")


def _share(leakage: float | None) -> str:
    return "not attacked" if leakage is None else f"{leakage:.0%}"


def print_advice(report: AdviceReport) -> None:
    """Print the plan, its taps, the other divisions, and what was not tested or measured."""
    from cloven.advising.advice import amount

    if report.assumptions:
        print_text("This advice is based on numbers that were not measured; they are listed below.")
    print_text(f"Recommended: {report.plan}. {report.reason}" if report.plan else report.reason)
    if report.leakage:
        table(
            "Taps of the plan, with the upper 95 % limit of their leakage without encryption",
            ["tap", "axis", "leakage", "attack", "encrypted"],
            [
                [
                    leak.tap,
                    leak.axis,
                    _share(leak.leakage),
                    leak.origin,
                    "yes" if leak.protected else "no",
                ]
                for leak in report.leakage
            ],
        )
    if report.rejected:
        table(
            "Not chosen: the best of each strategy",
            ["division", report.minimised, "reason"],
            [[one.division, one.shown(report.minimised), one.reason] for one in report.rejected],
        )
    if executed := report.executed:
        table(
            "Executed: the measured times decide",
            ["division", "estimated", "measured", "measured / estimated", ""],
            [
                [
                    one.division,
                    amount(one.latency, "latency"),
                    amount(one.measured_latency, "latency"),
                    ""
                    if one.latency is None or one.measured_latency is None
                    else f"{one.measured_latency / one.latency:.2f}",
                    "recommended" if one.chosen else "",
                ]
                for one in executed
            ],
        )
    named = [one for one in report.compared if one.names]
    if named:
        table(
            "For comparison",
            ["name", "division", report.minimised, "pixels", "labels", "reason"],
            [
                [
                    ", ".join(one.names),
                    one.division,
                    amount(getattr(one, report.minimised), report.minimised),
                    _share(one.pixel_leakage),
                    _share(one.label_leakage),
                    "recommended" if one.chosen else one.reason,
                ]
                for one in named
            ],
        )
    if report.nearest is not None:
        limits = "; ".join(report.nearest.limits)
        print_text(f"Nearest: {report.nearest.division}." + (f" Limits to relax: {limits}" if limits else ""))
    print_text(report.method)
    for heading, lines in (("not tested", report.untested), ("not measured", report.assumptions)):
        for line in lines:
            print_text(f"{heading}: {line}")
