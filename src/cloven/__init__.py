"""Divide a CNN over several machines, run it, and measure what a listener on each link can reconstruct of images.

>>> model = cloven.capture(network, example)
>>> program = cloven.divide(model, cloven.Vertical(cuts=["layer1"]), devices=2)
>>> logits = cloven.run(program, images)
>>> (observation,) = cloven.observe(program)
>>> results = cloven.audit(observation, [cloven.Decoder(epochs=10), "probe"], auxiliary=photos, victims=tests)

Names are imported when they are first used, so that ``import cloven`` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloven import attacks as attacks
    from cloven.advising.advice import Advice as Advice
    from cloven.advising.advise import advise as advise
    from cloven.advising.limits import Limits as Limits
    from cloven.attacks.decoder import Decoder as Decoder
    from cloven.auditing.captured import read_capture as read_capture
    from cloven.auditing.finding import Finding as Finding
    from cloven.auditing.given import audit as audit
    from cloven.auditing.results import Results as Results
    from cloven.cost.cluster import Cluster as Cluster
    from cloven.cost.estimate import Cost as Cost
    from cloven.cost.estimate import estimate as estimate
    from cloven.errors import ClovenError as ClovenError
    from cloven.graph.graph import Graph as Graph
    from cloven.partition.compare import compare as compare
    from cloven.partition.compiler import divide as divide
    from cloven.partition.data import Data as Data
    from cloven.partition.horizontal import Horizontal as Horizontal
    from cloven.partition.observe import Observation as Observation
    from cloven.partition.observe import observe as observe
    from cloven.partition.plan import Plan as Plan
    from cloven.partition.plan import compile as compile  # noqa: A004
    from cloven.partition.program import Program as Program
    from cloven.partition.strategy import Strategy as Strategy
    from cloven.partition.vertical import Vertical as Vertical
    from cloven.reporting.report_file import report as report
    from cloven.runtime.capture import capture as capture
    from cloven.runtime.local import run as run
    from cloven.runtime.recorded_tasks import read_tasks as read_tasks

_HOME = {
    "Advice": "cloven.advising.advice",
    "Cluster": "cloven.cost.cluster",
    "ClovenError": "cloven.errors",
    "Cost": "cloven.cost.estimate",
    "Data": "cloven.partition.data",
    "Decoder": "cloven.attacks.decoder",
    "Finding": "cloven.auditing.finding",
    "Graph": "cloven.graph.graph",
    "Horizontal": "cloven.partition.horizontal",
    "Limits": "cloven.advising.limits",
    "Observation": "cloven.partition.observe",
    "Plan": "cloven.partition.plan",
    "Program": "cloven.partition.program",
    "Results": "cloven.auditing.results",
    "Strategy": "cloven.partition.strategy",
    "Vertical": "cloven.partition.vertical",
    "advise": "cloven.advising.advise",
    "audit": "cloven.auditing.given",
    "capture": "cloven.runtime.capture",
    "compare": "cloven.partition.compare",
    "compile": "cloven.partition.plan",
    "divide": "cloven.partition.compiler",
    "estimate": "cloven.cost.estimate",
    "observe": "cloven.partition.observe",
    "read_capture": "cloven.auditing.captured",
    "read_tasks": "cloven.runtime.recorded_tasks",
    "report": "cloven.reporting.report_file",
    "run": "cloven.runtime.local",
}
"""The module of each public name."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "attacks":
        return import_module("cloven.attacks")
    if name not in _HOME:
        raise AttributeError(f"module 'cloven' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), "attacks", *__all__]
