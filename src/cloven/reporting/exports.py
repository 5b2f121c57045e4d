"""Findings as CSV and Parquet, with the columns of `cloven.auditing.finding_row`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from cloven.auditing.finding_row import FindingRow, columns
from cloven.errors import require

Entry = str | int | float | bool | None


def csv_text(rows: Sequence[FindingRow]) -> str:
    """Return rows as CSV (RFC 4180): a missing value is empty, numbers have all their digits."""
    made = io.StringIO()
    writer = csv.writer(made)
    names = [column.name for column in columns()]
    writer.writerow(names)
    writer.writerows([_plain(getattr(row, name)) for name in names] for row in rows)
    return made.getvalue()


def _plain(value: Entry) -> Entry:
    """Return true and false as pandas and R read them."""
    return str(value).lower() if isinstance(value, bool) else value


def parquet(rows: Sequence[FindingRow]) -> bytes:
    """Return rows as a Parquet file; the schema has the meaning of each column.

    Raises:
        ClovenError: if pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import write_table
    except ImportError as error:
        raise require("audit", error) from error
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema(
        [pa.field(c.name, types[c.kind], nullable=c.optional, metadata={"meaning": c.meaning}) for c in columns()]
    )
    made = io.BytesIO()
    entries = {column.name: [getattr(row, column.name) for row in rows] for column in columns()}
    write_table(pa.table(entries, schema=schema), made)
    return made.getvalue()
