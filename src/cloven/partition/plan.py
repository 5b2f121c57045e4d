"""The plan file: what a person writes and reads. TOML, checked as a whole; all problems are reported at once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition import compiler
from cloven.partition.compiler import Routing
from cloven.partition.data import Data
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Axis, Horizontal
from cloven.partition.program import Program
from cloven.partition.vertical import Vertical


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ModelSpec(_Frozen):
    """Which model: its name, the size of one image (C, H, W), how many classes, and a file with its weights."""

    name: str = Field(min_length=1)
    input: tuple[int, int, int]
    classes: int = Field(ge=2)
    weights: str | None = None


class VerticalSpec(_Frozen):
    """See `Vertical`."""

    kind: Literal["vertical"]
    cuts: tuple[str, ...] = ()


class HorizontalSpec(_Frozen):
    """See `Horizontal`."""

    kind: Literal["horizontal"]
    axis: Axis = "out_channels"
    shares: tuple[float, ...] | None = None
    exchange: Literal["local", "layer"] = "local"


class DataSpec(_Frozen):
    """See `Data`."""

    kind: Literal["data"]
    grid: tuple[int, int] | None = None
    until: str | None = None
    halo: Literal["exact", "none"] = "exact"


class Plan(_Frozen):
    """A division as a person writes it."""

    version: Literal[1] = 1
    model: ModelSpec
    strategy: Annotated[VerticalSpec | HorizontalSpec | DataSpec, Field(discriminator="kind")]
    devices: tuple[str, ...] = Field(min_length=1)
    routing: Routing = "direct"

    def partitioning(self) -> Strategy:
        """The strategy with its parameters."""
        spec = self.strategy
        match spec:
            case VerticalSpec():
                return Vertical(spec.cuts)
            case HorizontalSpec():
                return Horizontal(spec.axis, spec.shares, spec.exchange)
            case DataSpec():
                return Data(spec.grid, spec.until, spec.halo)

    def title(self) -> str:
        """The plan in a few words."""
        spec, number = self.strategy, len(self.devices)
        match spec:
            case VerticalSpec():
                where = f", cut after {', '.join(spec.cuts)}" if spec.cuts else ", balanced cuts"
            case HorizontalSpec():
                named = {"out_channels": "output channels", "in_channels": "input channels"}
                where = f", {named.get(spec.axis, spec.axis)}"
            case DataSpec():
                rows = "x".join(map(str, spec.grid)) if spec.grid else "usual"
                until = f" up to {spec.until}" if spec.until else ""
                where = f", {rows} grid{until}{', no halo' if spec.halo == 'none' else ''}"
        return f"{spec.kind}{where}, {number} device{'s' if number > 1 else ''}"

    def toml(self) -> str:
        """The plan as a file."""
        document = self.model_dump(mode="json", exclude_none=True)
        lines = [f"{key} = {_toml(document[key])}" for key in ("version", "devices", "routing")]
        for table in ("model", "strategy"):
            lines += [
                "",
                f"[{table}]",
                *(f"{key} = {_toml(value)}" for key, value in document[table].items()),
            ]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # For strings, integers and lists of them, JSON's notation is TOML's.
    return json.dumps(value, ensure_ascii=False)


def device_names(count: int) -> tuple[str, ...]:
    """The usual names: edge0, edge1, ..."""
    return tuple(f"edge{i}" for i in range(count))


def problems(graph: Graph, plan: Plan) -> list[str]:
    """All that is wrong with a plan for this graph, one sentence each."""
    found = []
    if plan.model.input != graph.input.shape:
        found.append(f"the plan is for images of {plan.model.input}; the model takes {graph.input.shape}")
    repeated = sorted({name for name in plan.devices if plan.devices.count(name) > 1})
    if repeated:
        found.append(f"two devices are named {', '.join(repeated)}; names must differ")
    strategy = plan.partitioning()
    wanted = strategy.count(len(plan.devices))
    if wanted != len(plan.devices):
        found.append(f"{len(plan.devices)} devices are named; the strategy takes {wanted}")
    return found + strategy.problems(graph, wanted)


def program(graph: Graph, plan: Plan) -> Program:
    """The program of a plan.

    Raises:
        ClovenError: with all problems of the plan together.
    """
    found = problems(graph, plan)
    if found:
        raise ClovenError(found)
    return compiler.compile(graph, plan.partitioning(), plan.devices, routing=plan.routing)


def described(plan: Plan, made: Program) -> dict[str, Any]:
    """A program for people and JSON readers: the transfer table, and sums for each link and device."""
    return {
        "plan": plan.title(),
        "exact": made.exact,
        "transfers": [transfer.row() for transfer in made.transfers],
        "links": [{"link": list(link), "bytes": made.sent(link)} for link in made.links],
        "devices": [{"device": device, "macs": made.macs(device)} for device in made.devices],
        "bytes": sum(transfer.bytes for transfer in made.transfers),
    }


def check(text: str, where: str = "the plan") -> tuple[Plan | None, list[str]]:
    """A plan from TOML, and all that is wrong with the text; see `check_document`."""
    try:
        return check_document(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        return None, [f"{where} is no TOML: {error}"]


def check_document(document: dict[str, Any], where: str = "the plan") -> tuple[Plan | None, list[str]]:
    """A plan from what a file holds, and all that is wrong with it.

    Wrong entries are left out of the plan; it is None where it cannot be made without them. So what is wrong
    with the rest of it can be said in the same message.
    """
    try:
        return _validated(document), []
    except ValidationError as error:
        errors: list[dict[str, Any]] = [{**e, "loc": _place(e["loc"])} for e in error.errors()]
    for entry in errors:
        _leave_out(document, entry["loc"])
    found = [f"{where}: {_sentence(entry)}" for entry in errors]
    try:
        return _validated(document), found
    except ValidationError:
        return None, found


def parse(text: str, where: str = "the plan") -> Plan:
    """A plan from TOML.

    Raises:
        ClovenError: for text that is no TOML, and for every unknown, missing or wrong entry.
    """
    plan, found = check(text, where)
    if found or plan is None:
        raise ClovenError(found)
    return plan


def _validated(document: dict[str, Any]) -> Plan:
    # JSON mode takes a list where a tuple is meant, and stays strict about numbers and strings.
    return Plan.model_validate_json(json.dumps(document, default=str))


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where an entry stands in the file: without the kind, which pydantic adds behind ``strategy``."""
    return (location[0], *location[2:]) if location[:1] == ("strategy",) and len(location) > 2 else location


def _leave_out(document: Any, location: tuple[int | str, ...]) -> None:
    *path, last = location
    for step in path:
        if not isinstance(document, dict) or step not in document:
            return
        document = document[step]
    if isinstance(document, dict):
        document.pop(last, None)


def _sentence(error: dict[str, Any]) -> str:
    path = ".".join(str(step) for step in error["loc"])
    got = error.get("input")
    shown = "" if isinstance(got, dict) or error["type"] == "missing" else f" (got {got!r})"
    if error["type"] == "extra_forbidden":
        return f"{path} is not a known entry{shown}"
    return f"{path or 'the whole'}: {error['msg'][0].lower()}{error['msg'][1:]}{shown}"


def read(path: Path) -> str:
    """The text of a plan file.

    Raises:
        ClovenError: for a file that cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClovenError(f"cannot read the plan {path}: {error}") from error
