"""What commands print on standard output: JSON and tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import typer

from cloven.cli.exits import STOPPED
from cloven.errors import printable
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.reporting.verdicts import Reading

Rows = Sequence[Sequence[object]]
Row = Mapping[str, Any]

WIDE = 180
"""The width of tables that go to a file or a pipe, where folding to a guessed width would help nobody."""

NARROW = 100
"""The width of what an audit says at its end."""

FEW = 20
"""Up to how many images' classes are shown one by one; all are in the JSON."""

log = logging.getLogger("cloven")


def print_json(value: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Rows, *, width: int = WIDE) -> None:
    """A table on standard output; columns of numbers to the right."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title), title_justify="left", header_style="bold", box=SIMPLE, pad_edge=False)
    for i, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        made.add_column(escape(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(printable(f"{cell:,}" if isinstance(cell, int) else str(cell))) for cell in row))
    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as drawn:
        console.print(made)
    typer.echo(drawn.get(), nl=False)  # rich would end the program itself where the output is closed


def enclave(document: Mapping[str, Any]) -> None:
    """What an enclave's run was, step by step, and what has left it."""
    typer.echo(f"{document['backend']} on {document['accelerator']}. {document['trust']}")
    typer.echo(f"limits: {', '.join(document['limits']) or 'those of the enclave'}")
    rows = [[row["step"], row["what"], f"{row['seconds']:.4f}"] for row in document["trace"]]
    table("the six steps of an inference (medians)", ["step", "what", "seconds"], rows)
    handed = document["handed_over"]
    shapes = ", ".join(map(by, handed["shapes"]))
    values = f"{', '.join(handed['values'])} ({shapes}), {handed['bytes']:,} bytes"
    typer.echo(f"handed over by {document['handover']}: {values}")
    typer.echo(f"in clear outside: {', '.join(document['in_clear'])}")


def enclave_times(document: Mapping[str, Any]) -> None:
    """The times of each cut of each model, beside all inside."""
    typer.echo(document["trust"])
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        rows = [
            [r["point"], r["cut"] or "all inside", f"{r['load']:.2f}", f"{r['first']:.3f}", f"{r['mean']:.3f}",
             f"{r['median']:.3f}", f"{r['spread']:.3f}", f"{r['parts']['front']:.3f}",
             f"{1e3 * r['parts']['hand-over']:.1f}", f"{r['parts']['rear']:.3f}", r["handed_bytes"],
             f"{r['reduction_percent']:.1f}", f"{r['ratio']:.2f}"]
            for r in document["rows"]
            if r["model"] == model
        ]  # fmt: skip
        columns = ["layer", "cut after", "load, s", "first", "mean", "median", "sd", "front", "hand-over, ms",
                   "rear", "bytes", "less time, %", "ratio"]  # fmt: skip
        table(f"{model}: seconds of an image", columns, rows)
    said = "; ".join(
        f"{row['model'].split(':')[-1]} {row['data']}, layer {row['point']}: {row['full_seconds']} -> "
        f"{row['partitioned_seconds']} s, {row['printed_percent']} %"
        for row in document["published"]
    )
    typer.echo(fill(f"S2 printed (Core i7-9700K, SGX): {said}", NARROW))


def partition_points(document: Mapping[str, Any]) -> None:
    """What was rebuilt behind every partition point, and where each attack would cut."""
    rows = [
        [r["point"], r["label"], r["path"], r["attack"], f"{r['ssim']['mean']:.3f}",
         f"{r['ssim']['low']:.3f} - {r['ssim']['high']:.3f}", f"{r['floor']:.3f}", r["bytes"]]
        for r in document["rows"]
    ]  # fmt: skip
    columns = ["point", "name", "cut after", "attack", "SSIM", "95 % interval", "floor", "bytes"]
    table(f"{document['model']} on {document['data']}: SSIM of reconstructions", columns, rows)
    shown = [
        [name, *(point["path"] if point else "none" for point in found.values())]
        for name, found in document["optimal"].items()
    ]
    rules = [_rule(rule, document) for rule in document["optimal"]["strongest"]]
    table("Cut after the first point from which on SSIM is", ["by", *rules], shown)


def by(shape: Sequence[int]) -> str:
    """A shape as ``16x5x5``."""
    return "x".join(map(str, shape))


def ops_and_cuts(model: str, ops: Sequence[Row], cuts: Sequence[Row]) -> None:
    """A model's ops, and every cut of it."""
    columns = ["op", "kind", "reads", "shape", "bytes", "MACs", "weight bytes"]
    table(f"{model}: ops, for one image", columns, [
        [o["op"], o["kind"], ", ".join(o["reads"]), by(o["shape"]), o["bytes"], o["macs"], o["weight_bytes"]]
        for o in ops
    ])  # fmt: skip
    columns = ["cut after", "papers", "tensors that cross", "bytes", "MACs before", "MACs after", "before"]
    table(f"{model}: every cut", columns, [
        [c["after"], " ".join(c["papers"]),
         "; ".join(f"{t['value']} {by(t['shape'])}" for t in c["tensors"]),
         c["bytes"], c["macs_before"], c["macs_after"], f"{c['before_percent']:.1f} %"]
        for c in cuts
    ])  # fmt: skip


def transfers(plan: Row) -> None:
    """What crosses each link, and what each device computes."""
    changed = any("transform" in r for r in plan["transfers"])
    columns = ["step", "from", "to", "value", "share", "shape", *(["transform"] if changed else []), "bytes"]
    table(f"{plan['plan']}: what crosses, for one image", columns, [
        [r["step"], r["source"], r["target"], r["value"], r["share"], by(r["shape"]),
         *([r.get("transform", "none")] if changed else []), r["bytes"]]
        for r in plan["transfers"]
    ])  # fmt: skip
    table("links", ["link", "bytes"], [[" > ".join(row["link"]), row["bytes"]] for row in plan["links"]])
    columns = ["device", "MACs", "computed again", "weights, bytes", "values, bytes", "raw image"]
    table("devices, for one image", columns, [
        [d[key] for key in ("device", "macs", "recomputed_macs", "weight_bytes", "memory_bytes")]
        + [f"{d['raw_image']:.1%}"]
        for d in plan["devices"]
    ])  # fmt: skip
    if not plan["exact"]:
        reasons = "; ".join(plan["inexact"])
        typer.echo(f"The result is NOT the model's ({reasons}); `cloven run --verify` measures by how much.")


def comparison(title: str, found: Row) -> None:
    """A divided model beside the whole one."""
    table(title, ["", ""], [
        [name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in found.items()
    ])  # fmt: skip


def cluster_run(found: Row) -> None:
    """A run on workers: what was answered, and the times of devices and links."""
    table(found["plan"], ["", ""], list(_totals(found)))
    if found["classes"] and len(found["classes"]) <= FEW:
        table("answers", ["image", "class"], [[row["image"], str(row["class"])] for row in found["classes"]])
    columns = ["device", "images", "compute", "95 %", "sealing", "opening", "steps"]
    keys = ("device", "images", "compute_ms", "p95_ms", "sealing_ms", "opening_ms")
    table("devices: ms of an image; median and 95th percentile of computing", columns, [
        [*(d[key] for key in keys), ", ".join(f"{s['ms']:g}" for s in d["steps"])] for d in found["devices"]
    ])  # fmt: skip
    columns = ["link", "protection", "frames", "bytes", "ms", "95 %", "+- ms"]
    title = (
        "links: frames of an image, bytes of all; ms of a frame from handing it over to having it, by clocks +- ms"
    )
    table(title, columns, [
        [" > ".join(r["link"]), _protection(r), r["messages"], r["bytes"], r["ms"], r["p95_ms"], r["uncertain_ms"]]
        for r in found["links"]
    ])  # fmt: skip


def _totals(found: Row) -> Iterator[tuple[str, str]]:
    yield "images", f"{found['images']:,}"
    yield "answered", f"{found['answered']:,}"
    yield "failed", f"{len(found['failed']):,}"
    if found["answered"]:
        late = found["latency"]
        yield "images a second", str(found["images_a_second"])
        yield "latency, ms (median, 95th percentile)", f"{late['median_ms']}, {late['p95_ms']}"
    if "accuracy" in found:
        yield "accuracy", f"{found['accuracy']:.4f}"
    if check := found.get("check"):
        yield "largest difference from the whole model", f"{check['max_difference']:.3g}"
        yield "allowed", f"{check['bound']:.3g}"


def _protection(row: Row) -> str:
    """What protects a link: the plan's word, TLS around all, or both."""
    if not row["tls"]:
        return str(row["protection"])
    return "TLS" if row["protection"] in ("none", "mtls") else f"{row['protection']} in TLS"


def laboratory(found: Row) -> None:
    """The network of a laboratory, and what a tap found on one link of it."""
    columns = ["link", "bits a second", "delay, ms", "carrier"]
    table("network", columns, [
        [" - ".join(r["link"]), r["bandwidth_bits"] or "as the machine", r["delay_ms"], r["carrier"]]
        for r in found["network"]
    ])  # fmt: skip
    if (tap := found.get("tap")) is None:
        return
    columns = ["link", "seen", "images", "payload", "transfer table", "bytes of TCP"]
    title = f"the tap: {tap['recorded']['packets']:,} packets; protection: {_protection(tap)}"
    table(title, columns, [
        [" > ".join(r["link"]), r["kind"], r["inputs"], r["payload"], r["table"], r["bytes"]] for r in tap["links"]
    ])  # fmt: skip
    if tap["differing"] is not None:
        typer.echo(f"{tap['differing']:,} captured numbers differ from what the engine sends in one process.")
    if tap["pairs"]:
        hint = f"cloven audit MODEL --data SPEC --pairs {tap['pairs']}"
        typer.echo(f"Captured pairs: {tap['pairs']}; attack them with `{hint}`.")
    elif tap["tls"]:
        typer.echo("All that crosses is TLS: no message can be told from another, and there are no pairs.")


def bundle(folder: str, found: Row) -> None:
    """What a bundle holds for each device, and how it was checked."""
    table(folder, ["device", "folder", "files", "bytes"], [
        [d["device"], d["folder"], d["files"], d["bytes"]] for d in found["devices"]
    ])  # fmt: skip
    check = found["check"]
    worst, allowed = (f"{check[key]:.3g}" for key in ("largest_difference", "tolerance"))
    typer.echo(f"Largest difference of a segment from PyTorch {worst}, allowed {allowed}.")


def observations(rows: Sequence[Row]) -> None:
    """What an audit would look at, and the attacks on it."""
    changed = any(r["transform"] != "none" for r in rows)
    planned = any(r.get("attacks") for r in rows)
    columns = ["strategy", "where", "view", "link", *(["transform"] if changed else []), "sent", "bytes",
               *(["attacks"] if planned else []), "seen"]  # fmt: skip
    table(f"{len(rows)} observations; nothing was trained or written", columns, [
        [r["strategy"], r["label"], r["view"], _link(r), *([r["transform"]] if changed else []), _sent(r),
         r["observation_bytes"], *([", ".join(r.get("attacks", ()))] if planned else []), _seen(r)]
        for r in rows
    ])  # fmt: skip


def summary(found: Row) -> None:
    """An audit: of each observation the strongest attack, the orderings, what is to be known, and the verdict."""
    from cloven.reporting.verdicts import UNTESTED, verdicts

    known = found["model_accuracy"] is not None and found["model_kappa"] is not None
    accuracy = f"accuracy {found['model_accuracy']:.1%}, kappa {found['model_kappa']:.2f}" if known else "no labels"
    seen = verdicts(found)
    title = (
        f"{found['model']} on {found['data']} ({accuracy})\nof each observation the strongest attack: mean [95 %]"
    )
    tested = any(v.row["converged"] != UNTESTED for v in seen)
    table(title, ["observation", "SSIM", "agreement", *(["more pairs"] if tested else [])], [
        [_observed(v.row), _reading(v.readings["ssim"]), _reading(v.readings["agreement"]),
         *([v.row["converged"]] if tested else [])]
        for v in seen
    ], width=NARROW)  # fmt: skip
    if found["orderings"]:
        table("What S1 expects, and what the numbers show", ["claim", "statement", "difference", "shows"], [
            [o["claim"], o["sentence"], _interval(o["difference"]), o["shows"]] for o in found["orderings"]
        ], width=NARROW)  # fmt: skip
    for line in _remarks(found, [v.row for v in seen]):
        typer.echo(fill(line, NARROW, subsequent_indent="  "))
    verdict = found["verdict"]
    typer.echo(verdict["sentence"] if verdict["given"] else f"No verdict: {verdict['reason']}")


def _observed(row: Row) -> str:
    """What was seen, in two lines."""
    how = "" if row["transform"] == "none" else f", {row['transform']}"
    sent = "" if row["crosses"] else ", never sent"
    return f"{row['strategy']}, {row['label']}{how}\n{_link(row)}, {row['view']}{sent}"


def _reading(reading: Reading | None) -> str:
    """A score in two lines: mean and interval; its floor, and whose it is."""
    if reading is None:
        return "not scored"
    score = reading.score
    floor = "no floor" if score["floor"] is None else f"floor {score['floor']:.2f}"
    whose = f"{score['attack']}, carried over" if reading.carried else score["attack"]
    return f"{_interval(score)}\n{floor}, {whose}"


def _remarks(found: Row, rows: Sequence[Row]) -> Iterator[str]:
    """What is to be known besides: under-trained attacks, notes on attacks, guessed shapes."""
    flags = [f"{row['strategy']}, {row['label']}: {flag}" for row in rows for flag in row["flags"]]
    notes = [
        f"{f['strategy']}, {f['label']}, {f['attack']}: {note}" for f in found["findings"] for note in f["notes"]
    ]
    for kind, lines in (("flag", flags), ("note", notes)):
        distinct = list(dict.fromkeys(lines))
        yield from (f"{kind}: {line}" for line in distinct[:FEW])
        if len(distinct) > FEW:
            yield f"{kind}: {len(distinct) - FEW:,} more are in the report"
    shapes = found["shapes"]
    if shapes and shapes["hits"] is not None:
        yield f"shapes guessed from bytes: {shapes['hits']:,} of {shapes['of']:,} are right"


def _link(row: Row) -> str:
    links = [row["link"]] if row["link"] else row["links"]
    return " + ".join(" > ".join(link) for link in links if link) or "no link"


def _seen(row: Row) -> str:
    return "; ".join(f"{value} {share}" for value, share in zip(row["seen"], row["share"], strict=True))


def _sent(row: Row) -> str:
    return "yes" if row["crosses"] else "never"


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def bars(found: Row) -> None:
    """The data sets of a paper's figure, its bars, and what is otherwise than in the paper."""
    columns = ["data", "images", "size", "classes", "colours", "80/10/10 %", "otherwise in S1"]
    table("Data sets (S1, Table 1)", columns, [
        [d["name"], d["images"], d["size"], d["classes"], d["colours"], "/".join(f"{n:,}" for n in d["split"]),
         "; ".join(d["differs"]) or ("as printed" if d["agrees"] else "not in S1")]
        for d in found["data"]
    ])  # fmt: skip
    table(f"S1, {found['title']}, scale {found['scale']['name']}",
          ["control", "data", "bar", "agreement [95 %]", "shares", "floor", "SSIM", "sent"], [
        [b["control"], b["data"], f"{b['strategy']}, {b['layer']}, {b['devices']}{_where(b)}",
         _interval(b["agreement"]), f"{min(b['shares']):.2f} to {max(b['shares']):.2f}",
         f"{b['floors']['agreement']:.2f}", f"{b['ssim']['mean']:.2f}", "yes" if b["crosses"] else "never"]
        for b in found["bars"]
    ])  # fmt: skip
    for line in found["smaller"]:
        typer.echo(f"otherwise than in S1: {line}")


def _where(row: Row) -> str:
    return f", {row['where']}" if row["where"] else ""


def costs(rows: Sequence[Row], found: Row) -> None:
    """What encryption costs each device, under each reading of the cuts, and the arithmetic behind it."""
    for reading in found["readings"]:
        mine = [row for row in rows if row["reading"] == reading["reading"]]
        columns = [name for name in mine[0] if name != "reading"]
        title = f"S1, Fig. 3, layers counted as {reading['reading']}: cut after {', '.join(reading['cuts'])}"
        table(title, columns, [[row[name] for name in columns] for row in mine])
        for sentence in reading["arithmetic"]["sentences"]:
            typer.echo(fill(sentence, WIDE, subsequent_indent="  "))
    for sentence in found["assumptions"]:
        typer.echo(fill(f"assumed: {sentence}", WIDE, subsequent_indent="  "))


def table_3(found: Row) -> None:
    """S2's Table III with what follows from its times, and the cost of an enclave that was fitted to them."""
    table("S2, Table III and Sect. V-D3, as printed", ["model", "data", "points", "cut at", "whole", "divided",
          "less time, printed", "derived", "times as fast"], [
        [r["model"], r["data"], r["partition_points"], r["point"], f"{r['full_seconds']} s",
         f"{r['partitioned_seconds']} s", f"{r['printed_percent']} %",
         f"{r['derived_percent']} % ({r['reduction_percent']:.2f})", f"{r['ratio']:.2f}"]
        for r in found["rows"]
    ])  # fmt: skip
    fit = found["fit"]
    table("Seconds inside the enclave, fitted to S2's seven times",
          ["model", "up to", "ops", "weights MB", "MMAC", "S2", "fit", "S2 - fit"], [
        [r["model"], r["point"] or "the end", r["ops"], f"{r['weight_bytes'] / 1e6:.1f}", f"{r['macs'] / 1e6:,.0f}",
         f"{r['published_seconds']:.2f}", f"{r['fitted_seconds']:.2f}", f"{r['residual_seconds']:+.2f}"]
        for r in fit["rows"]
    ])  # fmt: skip
    typer.echo(
        f"fit: {fit['fixed']:.2f} s, {1e3 * fit['op']:.1f} ms an op, {1e9 * fit['byte']:.2f} ms a MB of weights "
        f"beyond {fit['epc'] / 1e6:.0f} MB, {1e12 * fit['mac']:.2f} ms a GMAC"
    )
    for line in found["notes"]:
        typer.echo(fill(line, WIDE, subsequent_indent="  "))


def own_table_3(found: Row) -> None:
    """Where each attacker would cut, and what that saves of the time of the model all inside."""
    typer.echo(found["trust"])
    table(
        f"{found['model']} on {found['data']}: cut after the first point from which on SSIM is low",
        ["by", "SSIM is", "point", "cut after", "whole", "divided", "less time", "times as fast"],
        [[row["attack"], _rule(row["rule"], found), *_saved(row)] for row in found["rows"]],
    )


def _rule(name: str, found: Row) -> str:
    """A rule of `cloven.papers.s2.privacy.RULES` in words."""
    limit, later = found["threshold"], found["threshold"] + found["tolerance"]
    return {
        "strict": f"below {limit}",
        "tolerant": f"below {limit}, later {later:.2f}",
        "floor": "below its floor",
    }[name]


def _saved(row: Row) -> list[Any]:
    if row["point"] is None:
        return ["none", "", f"{row['full_seconds']:.3f} s", "", "", ""]
    seconds = (f"{row[name]:.3f} s" for name in ("full_seconds", "partitioned_seconds"))
    return [row["point"], row["path"], *seconds, f"{row['reduction_percent']:.1f} %", f"{row['ratio']:.2f}"]


def claims(rows: Sequence[Row]) -> None:
    """What a paper claims, and what the numbers say."""
    table("What S1 claims, and what the numbers show", ["claim", "statement", "verdict", "by control"], [
        [r["claim"], r["sentence"], r["verdict"], "\n".join(f"{c}: {word}" for c, word in r["controls"].items())]
        for r in rows
    ], width=NARROW)  # fmt: skip


@contextmanager
def resumable(folder: Path) -> Iterator[Callable[[str, int, int], None]]:
    """`progress` of work that keeps what is finished: Ctrl-C says where, and ends with exit code 130."""
    with report_progress() as report:
        try:
            yield report
        except KeyboardInterrupt:
            log.warning("stopped; what is finished is kept in %s: the same command goes on from there", folder)
            raise typer.Exit(STOPPED) from None
