"""Write the JSON schemas of all documents of cloven: ``python -m benchmarks.schemas [--check]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from benchmarks.measurement import BenchmarkResults
from cloven.advising.advice import AdviceReport
from cloven.auditing.finding import CellResult
from cloven.auditing.finding_row import FindingTable, columns
from cloven.auditing.store import PlannedCells
from cloven.auditing.study_file import StudyFile
from cloven.auditing.study_run import StudyRecord, StudyStatus
from cloven.auditing.summary import Summary
from cloven.cost.cluster import ClusterFile
from cloven.cost.estimate import Cost
from cloven.cost.profile import DeviceProfile, LinkProfile
from cloven.enclave.dcap import Policy
from cloven.enclave.run_report import RunReport
from cloven.enclave.sealed_folder import SealedHeader
from cloven.enclave.sealed_results import SealedResult
from cloven.graph.description import ModelDescription
from cloven.partition.description import PlanDescription
from cloven.partition.plan import Plan
from cloven.runtime.bundle.format import DevicePart, Manifest
from cloven.runtime.cluster.sending import SendSummary
from cloven.runtime.cluster.upgrading import UpgradeSummary
from cloven.runtime.cost_comparison import CostComparison
from cloven.runtime.lab.outcome import LabResult
from cloven.runtime.link_profile import LinkMeasurements
from cloven.runtime.tap.flows import CaptureReport
from cloven.zoo.data_description import DataSetDescription

FOLDER = Path(__file__).parent.parent / "docs" / "schemas"

SCHEMAS: Mapping[str, tuple[type[BaseModel], str]] = {
    "plan": (Plan, "a plan, `plan.toml`"),
    "cluster": (ClusterFile, "devices and links, `cluster.toml`"),
    "device-profile": (DeviceProfile, "the costs of a kind of device"),
    "link-profile": (LinkProfile, "the costs of a kind of link"),
    "link-measurements": (LinkMeasurements, "`cloven profile --links --json`"),
    "cost": (Cost, "`cloven estimate --json`"),
    "cost-comparison": (CostComparison, "`cloven estimate --measure --json`"),
    "model-description": (ModelDescription, "`cloven inspect --json`"),
    "data-set": (DataSetDescription, "`cloven data --json`"),
    "plan-description": (PlanDescription, "`cloven plan --json`"),
    "bundle": (Manifest, "a bundle's `manifest.json`"),
    "bundle-part": (DevicePart, "a device's `part.json` in a bundle"),
    "run": (SendSummary, "the times and bytes of `cloven run --cluster --json`"),
    "upgrade": (UpgradeSummary, "`cloven upgrade --json`"),
    "lab": (LabResult, "the links, times and tap of a laboratory, `cloven lab --json`"),
    "recording": (CaptureReport, "`cloven tap --read --json`"),
    "audit": (Summary, "an audit's `summary.json`"),
    "advice": (AdviceReport, "`advice.json` of `cloven advise`"),
    "audit-cell": (CellResult, "a cell of an audit, `cells/KEY.json`"),
    "audit-planned": (PlannedCells, "the cells of an audit, `planned.json`"),
    "study": (StudyFile, "a study, `study.toml`"),
    "study-record": (StudyRecord, "`study.json` in the folder of a study"),
    "study-status": (StudyStatus, "`cloven study status --json`"),
    "results": (FindingTable, "`cloven results --json`, with [these columns](columns.md)"),
    "sealed": (SealedHeader, "the header of a sealed model"),
    "sealed-result": (SealedResult, "a result that left the enclave sealed"),
    "enclave-run": (RunReport, "`trace.json` of `cloven enclave run`"),
    "benchmarks": (BenchmarkResults, "`bench.json` of `make bench`"),
    "enclave-policy": (Policy, "what an owner accepts of a platform, `policy.toml`"),
}
"""The schemas: the name of the file, the document, and a description."""


TYPES: Mapping[type, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
"""The types of columns in words."""


def files() -> dict[Path, str]:
    """Return the content of each file in the folder of schemas."""
    lines = [
        "# JSON schemas",
        "",
        "The documents that cloven writes and reads.",
        "",
        "| schema | document |",
        "|---|---|",
    ]
    found = {}
    for name, (kind, words) in SCHEMAS.items():
        lines.append(f"| [{name}.json]({name}.json) | {words} |")
        found[FOLDER / f"{name}.json"] = json.dumps(kind.model_json_schema(), indent=1) + "\n"
    return {FOLDER / "README.md": "\n".join(lines) + "\n", FOLDER / "columns.md": columns_page(), **found}


def columns_page() -> str:
    """Return the page with the columns of exports."""
    lines = [
        "# Columns of results",
        "",
        "A row is a finding: one attack on one observation, over all its seeds. [Export results](../export.md)",
        "says how to get them. Only columns that *may be empty* can lack a value; a missing number is empty, never",
        "zero. Scores and leakage of an encrypted link are those without the encryption.",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
    ]
    for column in columns():
        kind = f"{TYPES[column.kind]}, may be empty" if column.optional else TYPES[column.kind]
        lines.append(f"| `{column.name}` | {kind} | {column.meaning} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the files, or with ``--check`` exit 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    differing = []
    for path, text in files().items():
        if check and (not path.exists() or path.read_text("utf-8") != text):
            differing.append(path.name)
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    if differing:
        sys.exit(f"out of date: {', '.join(differing)}; run python -m benchmarks.schemas")


if __name__ == "__main__":
    main()
