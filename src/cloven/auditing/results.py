"""The results of an audit, as tables, as a data frame, and in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.auditing.finding import AXES, Axis, Finding
from cloven.auditing.finding_row import columns, finding_rows
from cloven.auditing.ranking import place_of
from cloven.auditing.store import CELLS, CONFIG, SUMMARY, Store
from cloven.auditing.summary import AuditVerdict, AxisScore, ObservationSummary, Summary
from cloven.errors import ClovenError, path_of, require, system_reason
from cloven.tables import Value, counted, html_table, text_table

if TYPE_CHECKING:
    import pandas as pd


class Results:
    """The results of `cloven.audit`.

    Attributes:
        summary: the results as a document.
        store: the folder with the scores of each image.
    """

    def __init__(self, summary: Summary, store: Store) -> None:
        self.summary = summary
        self.store = store

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Return the results in a folder that `save` or ``cloven audit`` wrote.

        Raises:
            ClovenError: if the folder holds no finished audit, or one that was edited.
        """
        store = Store(path_of(folder, "folder"))
        return cls(store.summary(), store)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings: one for each attack on each observation."""
        return self.summary.findings

    @property
    def observations(self) -> tuple[ObservationSummary, ...]:
        """The observations, each with its strongest attacks."""
        return self.summary.observations

    @property
    def verdict(self) -> AuditVerdict:
        """The ranking of the observations on each axis, and the audit in a few sentences."""
        return self.summary.verdict

    def strongest(self, axis: Axis = "pixels") -> tuple[Finding, ...]:
        """Return the strongest attack on each observation, by decreasing leakage; protected observations are last.

        The strongest attack is the one with the best score on held-out pairs.

        Args:
            axis: ``pixels`` (by SSIM) or ``labels`` (by agreement).

        Raises:
            ClovenError: for another axis.
        """
        if axis not in AXES:
            raise ClovenError(f"axis is {axis!r}; choose from {', '.join(AXES)}")
        found: list[tuple[float, Finding]] = []
        for one in self.observations:
            own = one.own.on(axis)
            if own is not None:  # equal observations share their findings: return that of the most exposed one
                mine = [f for f in self.findings if (f.observation, f.attack) == (one.observation, own.attack)]
                found.append((own.leakage.high, max(mine, key=lambda f: (f.crosses, not f.protected))))
        return tuple(finding for _, finding in sorted(found, key=lambda pair: (pair[1].protected, -pair[0])))

    def to_frame(self) -> pd.DataFrame:
        """Return the findings as a data frame with one row each; the columns are those of ``cloven results``.

        For an encrypted link, the scores and the leakage are those without the encryption.

        Raises:
            ClovenError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise require("audit", error) from error
        rows = finding_rows(self.summary, str(self.store.folder))
        return pd.DataFrame([row.model_dump() for row in rows], columns=[column.name for column in columns()])

    def save(self, folder: str | Path) -> Path:
        """Save the results in a new folder, from which `load` reads them, and return its path.

        Raises:
            ClovenError: if the folder is not empty or cannot be written.
        """
        target = path_of(folder, "folder")
        try:
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise ClovenError(f"{target} exists and is not empty; give a new folder")
            target.mkdir(parents=True, exist_ok=True)
            for name in (CONFIG, SUMMARY):
                shutil.copy(self.store.folder / name, target / name)
            shutil.copytree(self.store.folder / CELLS, target / CELLS)
        except OSError as error:
            raise ClovenError(f"cannot write to {target}: {system_reason(error)}") from error
        return target

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        attacks = list(dict.fromkeys(finding.attack for finding in self.findings))
        title = f"{counted(len(self.observations), 'observation')} attacked by {', '.join(attacks)}"
        said = self.verdict.sentence if self.verdict.given else f"No verdict: {self.verdict.reason}"
        over = f"95 % intervals over {self.summary.covers}."
        columns = ("observation", "pixels leak up to", "SSIM", "by", "labels leak up to", "agreement", "by")
        several = len({one.strategy for one in self.observations}) > 1  # programs may have links of equal names
        rows: list[tuple[Value, ...]] = [
            (
                f"{one.strategy}: {place_of(one)}" if several else place_of(one),
                *_cells(one.counts.pixels),
                *_cells(one.counts.labels),
            )
            for one in ranked(self.summary)
        ]
        return "\n".join([title, said or "", over, *self.summary.warnings]), columns, rows


def ranked(summary: Summary) -> list[ObservationSummary]:
    """Return the observations by decreasing leakage: first those in clear, then protected, then never sent."""
    return sorted(summary.observations, key=lambda one: (one.crosses, one.exposed, one.leaks), reverse=True)


def _cells(score: AxisScore | None) -> tuple[Value, Value, Value]:
    if score is None:
        return None, None, None
    attack = f"{score.attack} (deeper)" if score.carried_from else score.attack
    return f"{score.leakage.high:.0%}", f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]", attack
