"""The plan and its TOML file. A plan is checked as a whole, and all problems are reported at once."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cloven.errors import ClovenError, check_type, path_of
from cloven.files import TOML_BYTES, check_content, parse_toml, read_text, toml_value, write_text
from cloven.graph.graph import Graph
from cloven.partition import compiler
from cloven.partition.compiler import Routing
from cloven.partition.data import Data
from cloven.partition.division import wrong_names
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.protection import Protection
from cloven.partition.strategy import Names, Strategy
from cloven.partition.transform import UNCHANGED, Transforms
from cloven.partition.vertical import Vertical
from cloven.tables import html_table


class _Frozen(BaseModel):
    """A part of a plan. Wrong arguments raise a ClovenError."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    if not TYPE_CHECKING:

        def __init__(self, **entries: object) -> None:
            try:
                super().__init__(**entries)
            except ValidationError as error:
                raise ClovenError([_sentence({**e, "loc": _place(e["loc"])}) for e in error.errors()]) from None

        # With this mark, pydantic does not call __init__ for models that it validates from a file.
        __init__.__pydantic_base_init__ = True


class ModelSpec(_Frozen):
    """A plan's model: its name, the shape of an image (C, H, W), the number of classes, and a file of weights.

    ``mean`` and ``std`` normalise each channel of an image before it enters the model; the default depends on the
    model's name. A plan with the ``fingerprint`` of a graph (`Graph.fingerprint`) is compiled for that graph only.
    """

    name: str = Field(min_length=1)
    input: tuple[int, int, int]
    classes: int = Field(ge=2)
    weights: str | None = None
    fingerprint: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _normalisation(self) -> ModelSpec:
        given = [numbers for numbers in (self.mean, self.std) if numbers is not None]
        if len(given) == 1 or any(len(numbers) != self.input[0] for numbers in given):
            raise ValueError("mean and std must be given together, with one number for each channel")
        return self


Entry = Annotated[Vertical | Horizontal | Data, Field(discriminator="kind")]
"""A strategy in a plan."""


def in_words(strategies: Sequence[Strategy]) -> str:
    """Return strategies in sequence in a few words."""
    return "; then ".join(f"{one.title()}{f' up to {one.until}' if one.until else ''}" for one in strategies)


ONE, SEVERAL = "one", "several"


def _written(entry: object) -> str:
    """Return whether strategies are written as one table or as a list of tables."""
    return SEVERAL if isinstance(entry, list | tuple) else ONE


def _listed(strategies: Entry | Sequence[Entry]) -> tuple[Entry, ...]:
    listed = (strategies,) if isinstance(strategies, Strategy) else tuple(strategies)
    if not listed:
        raise PydanticCustomError("empty", "expected one or more strategies")
    return listed


Entries = Annotated[
    Annotated[Entry, Tag(ONE)] | Annotated[Sequence[Entry], Tag(SEVERAL)],
    Discriminator(_written),
    AfterValidator(_listed),
]
"""A strategy, or several in sequence; stored as a tuple."""


class Plan(_Frozen):
    """A division of a model: one ``[strategy]``, or several ``[[strategy]]`` in sequence, and the devices.

    A plan without a ``model`` can be compiled for any model that it fits. ``standby`` lists further devices, each
    of which may take the place of any lost device.
    """

    version: Literal[1] = 1
    model: ModelSpec | None = None
    strategy: Entries
    devices: Names
    standby: Names = ()
    routing: Routing = "direct"
    reuse: bool = True
    protection: Protection = Protection()
    transform: Transforms = UNCHANGED

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a TOML file.

        Raises:
            ClovenError: if the file cannot be read or has unknown, missing or wrong entries; it lists all of them.
        """
        return parse(read(path_of(path, "path")), str(path))

    def save(self, path: str | Path) -> None:
        """Write the plan to a TOML file; a failed write leaves no partial file.

        Raises:
            ClovenError: if the file cannot be written.
        """
        write_text(path_of(path, "path"), self.toml())

    @property
    def named_model(self) -> ModelSpec:
        """The plan's model.

        Raises:
            ClovenError: if the plan names no model.
        """
        if self.model is None:
            raise ClovenError("the plan names no model; add a [model] table to it, or give --model")
        return self.model

    @property
    def stages(self) -> tuple[Entry, ...]:
        """The strategies in sequence."""
        return _listed(self.strategy)

    def title(self) -> str:
        """Return the plan in a few words."""
        number = len(self.devices)
        return f"{in_words(self.stages)}, {number} device{'s' if number > 1 else ''}"

    def __repr__(self) -> str:
        return f"Plan for {self.model.name if self.model is not None else 'any model'}: {self.title()}"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return html_table(repr(self))

    def toml(self) -> str:
        """Return the plan as TOML."""
        document = self.model_dump(mode="json", exclude_none=True)
        keys = ("version", "devices", *(("standby",) if self.standby else ()), "routing", "reuse")
        head = [f"{key} = {toml_value(document[key])}" for key in keys]
        one = len(self.stages) == 1
        tables = [("[model]", document["model"])] if self.model is not None else []
        tables += [("[strategy]" if one else "[[strategy]]", spec) for spec in document["strategy"]]
        if self.protection != Protection():
            tables.append(("[protection]", {"default": self.protection.default}))
        if self.protection.links:
            tables.append(("[protection.links]", {toml_value(k): v for k, v in self.protection.links.items()}))
        if self.transform != UNCHANGED:
            image = {"image": self.transform.image} if self.transform.image != UNCHANGED.image else {}
            tables.append(("[transform]", {"default": document["transform"]["default"], **image}))
        if self.transform.links:
            links = document["transform"]["links"]
            tables.append(("[transform.links]", {toml_value(k): v for k, v in links.items()}))
        return "\n".join(head + [line for name, table in tables for line in _table(name, table)]) + "\n"


def _table(name: str, entries: dict[str, Any]) -> list[str]:
    return ["", name, *(f"{key} = {toml_value(value)}" for key, value in entries.items())]


def problems(graph: Graph, plan: Plan) -> list[str]:
    """Return all problems of a plan for a graph, one sentence each."""
    return [
        *(_another_model(graph, plan.model) if plan.model is not None else ()),
        *(wrong_names([*plan.devices, *plan.standby]) if plan.standby else ()),
        *plan.protection.problems(plan.devices),
        *compiler.problems(
            graph,
            plan.stages,
            plan.devices,
            routing=plan.routing,
            reuse=plan.reuse,
            transforms=plan.transform,
        ),
    ]


def _another_model(graph: Graph, spec: ModelSpec) -> Iterator[str]:
    """Yield the differences between a graph and the model that a plan names."""
    if spec.input != graph.input.shape:
        yield f"the plan is for images of {spec.input}; the model takes {graph.input.shape}"
    outputs = graph.by_name[graph.output].shape
    if len(outputs) == 1 and outputs[0] != spec.classes:
        yield f"the plan is for a model of {spec.classes} classes; the model has {outputs[0]} outputs"
    if spec.fingerprint not in (None, graph.fingerprint):
        yield (
            f"the plan is for another model: its fingerprint is {spec.fingerprint}, this model's is "
            f"{graph.fingerprint}"
        )


def compile(model: Graph, plan: Plan) -> Program:  # noqa: A001 - the verb that the design gives it
    """Return the program of a plan for a model.

    Args:
        model: the graph that `cloven.capture` returned.
        plan: the plan; if it names a model, the graph must be that model's.

    Raises:
        ClovenError: with all problems of the plan together.
    """
    check_type(model, Graph, "model", compiler.GRAPH)
    check_type(plan, Plan, "plan", "a plan, as cloven.Plan.load(path) returns")
    found = problems(model, plan)
    if found:
        raise ClovenError(found)
    program = compiler.divide(
        model,
        plan.stages,
        plan.devices,
        routing=plan.routing,
        reuse=plan.reuse,
        transforms=plan.transform,
    )
    return replace(program, protection=plan.protection, standby=tuple(plan.standby))


def check(text: str, where: str = "the plan") -> tuple[Plan | None, list[str]]:
    """Return a plan from TOML, and all problems of the text; see `check_document`."""
    try:
        return check_document(parse_toml(text, where), where)
    except ClovenError as error:
        return None, list(error.problems)


def check_document(document: dict[str, object], where: str = "the plan") -> tuple[Plan | None, list[str]]:
    """Return a plan from the content of a file, and all problems of its entries.

    Wrong entries are left out, so that the rest of the plan can be checked and reported in the same message. The
    plan is None if it cannot be made without them.
    """
    try:
        check_content(document, where)
        return _validated(document), []
    except ClovenError as error:
        return None, list(error.problems)
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
    """Return a plan from TOML.

    Raises:
        ClovenError: if the text is not TOML or has unknown, missing or wrong entries; it lists all of them.
    """
    plan, found = check(text, where)
    if found or plan is None:
        raise ClovenError(found)
    return plan


def _validated(document: dict[str, object]) -> Plan:
    # JSON mode accepts a list for a tuple, and stays strict about numbers and strings.
    return Plan.model_validate_json(json.dumps(document, default=str))


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the location of an entry in the file, without the tags that pydantic adds for strategies."""
    match location:
        case ("strategy", "one", *rest):
            return ("strategy", *rest[1:])
        case ("strategy", "several", int(number), *rest):
            return ("strategy", number, *rest[1:])
        case ("strategy", "several", *_):
            return ("strategy",)
    return location


def _leave_out(document: Any, location: tuple[int | str, ...]) -> None:
    *path, last = location
    for step in path:
        inside = step in document if isinstance(document, dict) else isinstance(document, list) and step != last
        if not inside:
            return
        document = document[step]
    if isinstance(document, dict):
        document.pop(last, None)


def _sentence(error: dict[str, Any]) -> str:
    path = ".".join(str(step) for step in error["loc"])
    got = error.get("input")
    shown = "" if isinstance(got, dict) or error["type"] == "missing" else f" (got {reprlib.repr(got)})"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{path} is not a known entry{shown}"
    if error["type"] == "model_attributes_type":
        return f"{path}: expected a strategy, such as cloven.Vertical(cuts=['layer1']){shown}"
    message = f"{error['msg'][0].lower()}{error['msg'][1:]}{shown}"
    return f"{path}: {message}" if path else message


def read(path: Path) -> str:
    """Read the text of a plan file.

    Raises:
        ClovenError: if the file cannot be read.
    """
    return read_text(path, TOML_BYTES)
