"""A comparison of programs: the transfers of each, and what its devices compute and hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cloven.errors import ClovenError, check_type, require, shown
from cloven.partition.program import Program
from cloven.partition.usage import Usage, usage
from cloven.tables import Value, html_table, text_table

if TYPE_CHECKING:
    import pandas as pd

Part = TypeVar("Part")


@dataclass(frozen=True)
class Quantity:
    """A row of a comparison, for one image.

    ``values`` has one value for each program, or None if it has no such part. ``part`` is a link or a device, and
    empty for the whole program.
    """

    name: str
    part: str
    values: tuple[int | None, ...]


@dataclass(frozen=True, repr=False)
class ProgramComparison:
    """A comparison of programs for one image: transfers, bytes on each link, MACs and memory of each device."""

    programs: tuple[str, ...]
    quantities: tuple[Quantity, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a data frame with a column for each program; the index is the quantity and the link or device.

        Raises:
            ClovenError: if pandas is not installed; the extra ``audit`` includes it.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise require("audit", error) from error
        places = [(q.name, q.part) for q in self.quantities]
        index = pd.MultiIndex.from_tuples(places, names=["quantity", "part"])
        values = [q.values for q in self.quantities]
        return pd.DataFrame(values, index=index, columns=list(self.programs), dtype="Int64")

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        rows: list[tuple[Value, ...]] = [(q.name, q.part, *q.values) for q in self.quantities]
        return f"{len(self.programs)} programs, for one image", ("quantity", "link or device", *self.programs), rows


def compare(programs: Sequence[Program] | Mapping[str, Program]) -> ProgramComparison:
    """Compare programs by transfers, bytes on each link, and MACs and memory of each device.

    Args:
        programs: programs from `cloven.divide` or `cloven.compile`, as a list, or as a mapping from names.

    Raises:
        ClovenError: if ``programs`` is empty or contains something other than programs.
    """
    check_type(programs, (list, tuple, Mapping), "programs", "a list of programs")
    named = programs if isinstance(programs, Mapping) else {f"program {i}": p for i, p in enumerate(programs, 1)}
    for name in named:
        check_type(name, str, "the name of a program", "text")
    wrong = [f"{name} is {shown(given)}" for name, given in named.items() if not isinstance(given, Program)]
    if wrong or not named:
        got = "; ".join(wrong) or "programs is empty"
        raise ClovenError(f"{got}; expected programs, as cloven.divide or cloven.compile returns")
    every = list(named.values())
    devices: list[dict[str, Usage]] = []
    links: list[dict[str, int]] = []
    for one in every:
        devices.append({device.device: device for device in usage(one)})
        links.append({f"{source}->{target}": one.sent((source, target)) for source, target in one.links})
    return ProgramComparison(
        tuple(named),
        (
            Quantity("transfers", "", tuple(len(program.transfers) for program in every)),
            Quantity("bytes", "", tuple(sum(link.values()) for link in links)),
            *_rows("bytes", links, int),
            *_rows("MACs", devices, lambda device: device.macs),
            *_rows("bytes of weights", devices, lambda device: device.weight_bytes),
            *_rows("bytes of values", devices, lambda device: device.memory_bytes),
        ),
    )


def _rows(name: str, programs: Sequence[Mapping[str, Part]], figure: Callable[[Part], int]) -> Iterable[Quantity]:
    """Yield a row for each link or device of any program."""
    for part in dict.fromkeys(part for program in programs for part in program):
        values = (figure(program[part]) if part in program else None for program in programs)
        yield Quantity(name, part, tuple(values))
