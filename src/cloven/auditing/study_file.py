"""Study files: audits of every combination of models, data, divisions and attackers, in one TOML file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cloven.auditing.finding import Axis
from cloven.auditing.request import ENCLAVE, AuditRequest
from cloven.auditing.store import digest_of
from cloven.auditing.subject import SAME
from cloven.auditing.suite import AttackSuite
from cloven.documents import Document, read_toml_document
from cloven.errors import ClovenError
from cloven.partition.transform import NONE, Transform
from cloven.zoo.datasets import KINDS, parsed

MOST = 1_000_000
"""The largest number of combinations of a study."""

WHOLE = ("vertical", "enclave")
"""The strategies that do not depend on the number of devices."""

AxisValue = str | int | None
Box = Mapping[str, tuple[AxisValue, ...]]
"""All combinations of the values of each axis."""

OUTER = ("models", "data", "auxiliary", "queries", "devices")
"""The axes of which each combination is an audit of its own."""

INNER = ("strategies", "transforms", "attacks")
"""The axes that one audit covers, besides the seeds."""


def _attack(name: str) -> str:
    if problems := AttackSuite((name,)).problems():
        raise ClovenError(problems)
    return name


def _transform(name: str) -> str:
    return Transform.parse(name).name


def _data(spec: str) -> str:
    parsed(spec)
    return spec


def _auxiliary(spec: str) -> str:
    return spec if spec == SAME else _data(spec)


DataSpec = Annotated[str, AfterValidator(_data)]
AuxiliarySpec = Annotated[str, AfterValidator(_auxiliary)]
StrategyName = Literal["vertical", "horizontal", "data", "enclave"]
AttackName = Annotated[str, AfterValidator(_attack)]
TransformName = Annotated[str, AfterValidator(_transform)]
Queries = Annotated[int, Field(ge=2, le=10**9)]
Devices = Annotated[int, Field(ge=2, le=1024)]
Share = Annotated[float, Field(ge=0, le=1)]


class StudyModel(Document):
    """A model of a study.

    ``label`` names it in the study; default: its name. ``weights`` is a file, relative to the working folder, or
    ``pretrained``. ``layers`` are the layers whose outputs are observed; default: those of Mehrafrooz et al.
    """

    name: str = Field(min_length=1)
    label: str = ""
    weights: str | None = None
    input: tuple[int, int, int] | None = None
    classes: int | None = Field(default=None, ge=2)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name


class StudyAxes(Document):
    """The axes of a study besides its models: every combination is audited.

    Without ``queries``, each audit has the default number. ``seeds`` is the number of seeds.
    """

    data: tuple[DataSpec, ...] = ("digits",)
    auxiliary: tuple[AuxiliarySpec, ...] = ("photos",)
    queries: tuple[Queries, ...] = ()
    devices: tuple[Devices, ...] = (4,)
    strategies: tuple[StrategyName, ...] = ("vertical", "horizontal", "data")
    transforms: tuple[TransformName, ...] = ("none",)
    attacks: tuple[AttackName, ...] = ("decoder", "probe")
    seeds: int = Field(default=1, ge=1, le=10**9)


class Exclusion(Document):
    """Combinations to leave out: those with one of the values on every axis that is named."""

    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    queries: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    strategies: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()

    def box(self) -> Box:
        """Return the named axes with their values."""
        return {axis: getattr(self, axis) for axis in (*OUTER, *INNER) if getattr(self, axis)}


class StudySettings(Document):
    """The settings that all audits of a study share; they have the meaning of the options of ``cloven audit``."""

    view: Literal["both", "paper", "full"] | None = None
    links: Literal["first", "all"] | None = None
    shape: Literal["given", "places", "inferred"] = "given"
    mirror: bool = False
    victims: int | None = Field(default=None, ge=2, le=10**9)
    epochs: int | None = Field(default=None, ge=1, le=10**9)
    gan_epochs: int = Field(default=200, ge=1, le=10**9)
    attack_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    curve: bool = False
    judge: str = Field(default="auto", min_length=1)
    threshold: float = Field(default=0.2, gt=0, lt=1)
    device: str = Field(default="cpu", min_length=1)
    autocast: Literal["float32", "bfloat16"] = "float32"
    features: Literal["float32", "float16"] = "float32"
    seed: int = Field(default=0, ge=0, le=2**31)


class StudyLimits(Document):
    """The largest leakage that is accepted on each axis, fixed before the study starts; None for no limit."""

    pixels: Share | None = None
    labels: Share | None = None

    def by_axis(self) -> dict[Axis, float]:
        """Return the limits that are given."""
        given: dict[Axis, float | None] = {"pixels": self.pixels, "labels": self.labels}
        return {axis: limit for axis, limit in given.items() if limit is not None}

    def hash(self) -> str:
        """Return the SHA-256 of the limits."""
        return digest_of(self.model_dump(mode="json"))


class StudyFile(Document):
    """A study: every combination of its models and axes is audited, without those that are excluded.

    ``digests`` are SHA-256 sums of data sets in folders, by their names, which are checked before any work.
    """

    version: Literal[1] = 1
    title: str = ""
    models: tuple[StudyModel, ...]
    axes: StudyAxes = StudyAxes()
    exclude: tuple[Exclusion, ...] = Field(default=(), max_length=1000)
    audit: StudySettings = StudySettings()
    limits: StudyLimits = StudyLimits()
    digests: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default_factory=dict)

    def identity(self) -> str:
        """Return the SHA-256 of everything in the study but its title."""
        return digest_of(self.model_dump(mode="json", exclude={"title"}))

    def box(self) -> Box:
        """Return all combinations, those that are excluded too."""
        axes = self.axes
        return {
            "models": tuple(model.title for model in self.models),
            "data": axes.data,
            "auxiliary": axes.auxiliary,
            "queries": axes.queries or (None,),
            "devices": axes.devices,
            "strategies": axes.strategies,
            "transforms": axes.transforms,
            "attacks": axes.attacks,
        }

    def problems(self) -> Iterator[str]:
        """Yield each problem that concerns several entries."""
        box = self.box()
        for axis, values in box.items():
            if not values:
                yield f"{axis} is empty; expected at least one"
            for value, times in Counter(values).items():
                if times > 1:
                    more = "give one of them another label" if axis == "models" else "give it once"
                    yield f"{axis}: {value} occurs {times} times; {more}"
        for number, one in enumerate(self.exclude):
            if not one.box():
                yield f"exclude.{number} is empty; name at least one axis, such as strategies"
            for axis, values in one.box().items():
                for value in values:
                    if value not in box[axis]:
                        known = ", ".join(str(each) for each in box[axis] if each is not None)
                        yield f"exclude.{number}.{axis}: {value} is not in the study; choose from {known or 'none'}"
        for spec in self.digests:
            kind = spec.partition(":")[0]
            if spec not in (*self.axes.data, *self.axes.auxiliary):
                yield f"digests: {spec} is not in the study; remove the entry"
            elif kind not in KINDS or not KINDS[kind].of_folder:
                yield f"digests: {spec} is part of cloven and has no folder; remove the entry"
        for model in self.models:
            if "enclave" in self.axes.strategies and not model.layers:
                yield f"models: {model.title} has no layers, after which the strategy enclave cuts; add layers"


def read_study(path: Path) -> StudyFile:
    """Read a study file.

    Raises:
        ClovenError: with every problem of the file.
    """
    study = read_toml_document(StudyFile, path)
    if problems := list(study.problems()):
        raise ClovenError([f"{path}: {problem}" for problem in problems])
    return study


# --- the audits of a study --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedAudit:
    """An audit of a study: its name, its options, and its number of combinations.

    A combination is a strategy, a transform, an attack, a seed and, if the model names any, a layer. The number of
    its cells is that of its different observations.
    """

    name: str
    request: AuditRequest

    @property
    def combinations(self) -> int:
        """The number of combinations."""
        asked = self.request
        sizes = (asked.strategies, asked.defences or (NONE.name,), asked.attacks, asked.layers or ("",))
        return prod(map(len, sizes)) * asked.seeds


def planned_audits(study: StudyFile) -> tuple[PlannedAudit, ...]:
    """Return the audits of a study in a fixed order, each with a name that depends on its own values only.

    Raises:
        ClovenError: if no combination is left, or if there are more than `MOST`.
    """
    boxes = _remaining(study)
    layers = {model.title: max(1, len(model.layers)) for model in study.models}
    total = study.axes.seeds * sum(_size(box) * sum(layers[str(name)] for name in box["models"]) for box in boxes)
    if total > MOST:
        sizes = ", ".join(f"{len(values)} {axis}" for axis, values in study.box().items() if len(values) > 1)
        raise ClovenError(
            f"the study has {total:,} combinations ({sizes}, {study.axes.seeds} seeds); expected at most {MOST:,}: "
            "shorten an axis, exclude combinations, or make several studies"
        )
    if not total:
        raise ClovenError("the study has no combinations: all are excluded; remove entries of exclude")
    found: dict[str, PlannedAudit] = {}
    for box in boxes:
        for values in product(*(box[axis] for axis in OUTER)):
            outer = dict(zip(OUTER, values, strict=True))
            for strategies in _audited_together(box["strategies"]):
                asked = _request(study, outer, {**box, "strategies": strategies})
                name = _free_name(_name(outer, strategies), found)
                found[name] = PlannedAudit(name, asked)
    return tuple(found.values())


def _remaining(study: StudyFile) -> list[Box]:
    """Return disjoint boxes with the combinations that are left.

    Strategies that do not depend on the number of devices are combined with the first number only.
    """
    whole = study.box()
    excluded = [one.box() for one in study.exclude]
    if fixed := tuple(name for name in whole["strategies"] if name in WHOLE):
        excluded.append({"devices": whole["devices"][1:], "strategies": fixed})
    boxes = [whole]
    for one in excluded:
        boxes = [rest for box in boxes for rest in without(box, one)]
    return boxes


def without(box: Box, excluded: Box) -> Iterator[Box]:
    """Yield disjoint boxes with the combinations of a box that are not in another, which may lack axes."""
    inside = {axis: tuple(value for value in box[axis] if value in excluded[axis]) for axis in excluded}
    if not all(inside.values()):
        yield box
        return
    for axis in excluded:
        if rest := tuple(value for value in box[axis] if value not in excluded[axis]):
            yield {**box, axis: rest}
        box = {**box, axis: inside[axis]}


def _size(box: Box) -> int:
    """Return the number of combinations for one model."""
    return prod(len(values) for axis, values in box.items() if axis != "models")


def _audited_together(strategies: Sequence[AxisValue]) -> Iterator[tuple[AxisValue, ...]]:
    """Yield the strategies of each audit: an enclave is audited separately."""
    alone = tuple(name for name in strategies if name in ENCLAVE)
    yield from filter(None, (tuple(name for name in strategies if name not in ENCLAVE), alone))


def _name(outer: Mapping[str, AxisValue], strategies: Sequence[AxisValue]) -> str:
    words = [str(outer[axis]).split("/")[-1 if axis == "models" else 0] for axis in ("models", "data", "auxiliary")]
    words += [f"{outer['queries']}-queries"] if outer["queries"] is not None else []
    words += list(ENCLAVE) if strategies == ENCLAVE else [f"{outer['devices']}-devices"]
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")[:100]
    return f"{readable}-{digest_of(dict(outer))[:6]}"


def _free_name(name: str, taken: Iterable[str]) -> str:
    """Return a name that is not taken: with a number if exclusions divide an audit into several."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _request(study: StudyFile, outer: Mapping[str, AxisValue], box: Box) -> AuditRequest:
    """Return the options of an audit."""
    (model,) = (model for model in study.models if model.title == outer["models"])
    shared, transforms, queries = study.audit, box["transforms"], outer["queries"]
    assert queries is None or isinstance(queries, int)
    return AuditRequest(
        model=model.name,
        data=str(outer["data"]),
        auxiliary=str(outer["auxiliary"]),
        attacks=tuple(map(str, box["attacks"])),
        strategies=tuple(map(str, box["strategies"])),
        layers=model.layers,
        devices=int(outer["devices"] or 0),
        view=shared.view,
        links=shared.links,
        defences=() if transforms == (NONE.name,) else tuple(map(str, transforms)),
        shape=(shared.shape,),
        weights=Path(model.weights) if model.weights is not None else None,
        input_size=model.input,
        classes=model.classes,
        mean=model.mean,
        std=model.std,
        judge=shared.judge,
        mirror=shared.mirror,
        queries=queries,
        victims=shared.victims,
        epochs=shared.epochs,
        gan_epochs=shared.gan_epochs,
        seeds=study.axes.seeds,
        curve=shared.curve,
        attack_seconds=shared.attack_seconds,
        threshold=shared.threshold,
        device=shared.device,
        autocast=shared.autocast,
        features=shared.features,
        seed=shared.seed,
    )


# --- the difference between two studies -------------------------------------------------------------------------

LISTS = ("strategies", "layers", "defences", "attacks")
"""The options of an audit that are lists of which each entry has its own cells."""

NAMED = 3
"""The number of audits that a difference names."""


@dataclass(frozen=True)
class StudyDifference:
    """The difference between two studies.

    Attributes:
        added: audits that only the second study has.
        removed: audits that only the first study has.
        changed: the changes of each audit that both have, if it has any.
        others: changes of limits and digests, which are not part of any audit.
        new_combinations: the number of combinations that only the second study has.
        dropped_combinations: the number of those that only the first study has.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...]
    new_combinations: int
    dropped_combinations: int

    def __bool__(self) -> bool:
        """Return whether the studies differ."""
        return bool(self.added or self.removed or self.changed or self.others)

    def sentences(self) -> tuple[str, ...]:
        """Return the difference as sentences; equal changes of several audits are one sentence."""
        alike: dict[str, list[str]] = {}
        for name, changes in self.changed.items():
            for change in changes:
                alike.setdefault(change, []).append(name)
        found = [f"new audits: {_shown(self.added)}"] if self.added else []
        found += [f"audits that the study no longer has: {_shown(self.removed)}"] if self.removed else []
        found += [f"{change} (in {_shown(names)})" for change, names in alike.items()]
        found += self.others
        if self.new_combinations or self.dropped_combinations:
            found.append(
                f"{self.new_combinations:,} combinations were added, {self.dropped_combinations:,} were removed"
            )
        return tuple(found)


def difference(before: StudyFile, after: StudyFile) -> StudyDifference:
    """Return the difference between two studies.

    Raises:
        ClovenError: as `planned_audits`.
    """
    old, new = ({audit.name: audit for audit in planned_audits(study)} for study in (before, after))
    common = {name: _common(old[name].request, new[name].request) for name in old if name in new}
    changes = {name: tuple(_changes(old[name].request, new[name].request)) for name in common}
    return StudyDifference(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed={name: found for name, found in changes.items() if found},
        others=tuple(_other_changes(before, after)),
        new_combinations=sum(audit.combinations - common.get(name, 0) for name, audit in new.items()),
        dropped_combinations=sum(audit.combinations - common.get(name, 0) for name, audit in old.items()),
    )


def _common(before: AuditRequest, after: AuditRequest) -> int:
    """Return the number of combinations that two audits have in common."""
    if any(name not in (*LISTS, "seeds", "curve", "threshold") for name in _different(before, after)):
        return 0
    sizes = []
    for name in LISTS:
        old, new = ({*getattr(one, name)} or {NONE.name} for one in (before, after))
        sizes.append(len(old & new))
    return prod(sizes) * min(before.seeds, after.seeds)


def _different(before: AuditRequest, after: AuditRequest) -> list[str]:
    names = [field.name for field in fields(AuditRequest)]
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _changes(before: AuditRequest, after: AuditRequest) -> Iterator[str]:
    for name in _different(before, after):
        old, new = getattr(before, name), getattr(after, name)
        if name not in LISTS:
            yield f"{name}: {old} before, {new} now"
            continue
        title = "transforms" if name == "defences" else name
        for word, ours, theirs in (("new", new, old), ("removed", old, new)):
            if only := [str(value) for value in ours if value not in theirs]:
                yield f"{title}: {', '.join(only)} {word}"
        if set(old) == set(new):
            yield f"{title}: another order"


def _other_changes(before: StudyFile, after: StudyFile) -> Iterator[str]:
    for axis in ("pixels", "labels"):
        old, new = getattr(before.limits, axis), getattr(after.limits, axis)
        if old != new:
            yield f"limits.{axis}: {old} before, {new} now"
    for spec in sorted(before.digests.keys() | after.digests.keys()):
        old, new = before.digests.get(spec), after.digests.get(spec)
        if old != new:
            yield f"digests: {spec}: {old or 'none'} before, {new or 'none'} now"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# --- the data of a study ----------------------------------------------------------------------------------------


def folders_of(study: StudyFile) -> tuple[str, ...]:
    """Return the names of the data sets that lie in folders."""
    every = dict.fromkeys(spec for spec in (*study.axes.data, *study.axes.auxiliary) if spec != SAME)
    return tuple(spec for spec in every if KINDS[spec.partition(":")[0]].of_folder)


def folder_digest(spec: str) -> str:
    """Return the SHA-256 of the names and contents of all files of a data set in a folder, without hidden files.

    Raises:
        ClovenError: if the folder is missing or a file cannot be read.
    """
    folder = parsed(spec).folder
    if not folder.is_dir():
        raise ClovenError(f"{spec}: {folder} is not a folder; correct the path, which is relative to this folder")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ClovenError(f"cannot read {path}: {error.strerror or error}") from error
            digest.update(f"{name.as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def check_digests(study: StudyFile) -> None:
    """Compare the data sets with the digests in the study.

    Raises:
        ClovenError: with each data set that has another digest.
    """
    problems = []
    for spec, expected in study.digests.items():
        found = folder_digest(spec)
        if found != expected:
            problems.append(f"digests: {spec} has {found}; expected {expected}: the data set has changed")
    if problems:
        raise ClovenError(problems)
