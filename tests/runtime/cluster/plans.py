"""Plans of every strategy, their bundles with any protection, and the outputs of the whole model."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cloven.graph.graph import Graph
from cloven.partition import plan as plans
from cloven.partition.plan import Plan, parse
from cloven.partition.protection import NAMES, Protection
from cloven.runtime.bundle import engine
from cloven.runtime.bundle.format import MANIFEST
from cloven.runtime.bundle.reader import read_manifest
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.cluster.coordinator import Prediction
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.link import authority
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.named import make

Images = NDArray[np.float32]

SHAPES = {"lenet5": (1, 28, 28), "resnet20": (3, 32, 32), "mobilenet_v1_0.25": (3, 64, 64)}
"""The models, and the images that the tests give them."""

MIDDLE = {"lenet5": "pool1", "resnet20": "layer1", "mobilenet_v1_0.25": "conv_pw_3"}
"""Where a hybrid plan changes its strategy."""

PLANS = {
    "pair": (2, '[strategy]\nkind = "vertical"'),
    "vertical": (3, '[strategy]\nkind = "vertical"'),
    "out_channels": (2, '[strategy]\nkind = "horizontal"\naxis = "out_channels"'),
    "in_channels": (2, '[strategy]\nkind = "horizontal"\naxis = "in_channels"'),
    "fused": (3, '[strategy]\nkind = "horizontal"\naxis = "fused"'),
    "rows": (2, '[strategy]\nkind = "horizontal"\naxis = "rows"'),
    "tiles": (2, '[strategy]\nkind = "data"\ngrid = [2, 1]'),
    "grid": (4, '[strategy]\nkind = "data"\ngrid = [2, 2]'),
    "hybrid": (
        3,
        '[[strategy]]\nkind = "data"\ngrid = [1, 2]\nuntil = "{middle}"\non = ["edge0", "edge1"]\n'
        '[[strategy]]\nkind = "vertical"\non = ["edge0", "edge2"]',
    ),
    "star": (3, '[strategy]\nkind = "horizontal"'),
}
"""Devices and text of plans: one of each strategy, and the smallest."""

STRATEGIES = [name for name in PLANS if name not in ("pair", "grid")]

PROTECTIONS = NAMES

REPEATED = 8
"""How many images of LeNet-5 are sent over and over."""

_HERE = Path(tempfile.mkdtemp(prefix="cloven-plans-"))
atexit.register(shutil.rmtree, _HERE, ignore_errors=True)


def plan(model: str, strategy: str, protection: Protection | None = None) -> Plan:
    """Return the plan of a model with a strategy."""
    devices, text = PLANS[strategy]
    head = f"version = 1\ndevices = {json.dumps([f'edge{i}' for i in range(devices)])}\n"
    head += f'routing = "{"star" if strategy == "star" else "direct"}"\n'
    head += f'[model]\nname = "{model}"\ninput = {list(SHAPES[model])}\nclasses = 10\n'
    made = parse(head + text.format(middle=MIDDLE[model]))
    return made.model_copy(update={"protection": protection or Protection()})


@cache
def graph(model: str) -> Graph:
    """Return a model with random weights whose outputs vary between images like those of a trained one."""
    generator = torch.Generator().manual_seed(0)
    module = make(model, shape=SHAPES[model], classes=10)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, generator=generator)
    return capture(module, torch.zeros(1, *SHAPES[model]))


@cache
def _written(model: str, strategy: str) -> Path:
    made = plan(model, strategy)
    folder = _HERE / f"{model}-{strategy}"
    write(plans.compile(graph(model), made), folder, model=model, plan=made.toml())
    return folder


def bundled(model: str, strategy: str, protection: Protection | str = "none") -> Path:
    """Return the folder of a plan's bundle; segments are written once, as only the manifest has the protection."""
    wanted = Protection(default=protection) if isinstance(protection, str) else protection  # type: ignore[arg-type]
    folder = _HERE / f"{model}-{strategy}-{wanted.model_dump_json().encode().hex()}"
    if not folder.exists():
        shutil.copytree(_written(model, strategy), folder, copy_function=os.link)
        path = folder / MANIFEST
        manifest = json.loads(path.read_text())
        manifest |= {"protection": wanted.model_dump(), "plan": plan(model, strategy, wanted).toml()}
        path.unlink()
        path.write_text(json.dumps(manifest))
    return folder


def plan_of(folder: Path) -> Plan:
    """Return the plan of a bundle."""
    text = read_manifest(folder).plan
    assert isinstance(text, str)
    return parse(text)


@cache
def keys() -> Path:
    """Return a folder of keys for all devices."""
    authority.new([f"edge{i}" for i in range(4)], _HERE / "keys")
    return _HERE / "keys"


def images(model: str, count: int = 3, seed: int = 0) -> Images:
    """Return random images in [0, 1]."""
    return np.random.default_rng(seed).random((count, *SHAPES[model]), np.float32)


def alone(folder: Path, given: Images) -> Images:
    """Return the outputs of a bundle in one process, one image after another."""
    return engine.run(folder, given, batch=1)


def many(count: int) -> Iterator[Images]:
    """Return images for LeNet-5: a few distinct ones, repeated."""
    given = images("lenet5", REPEATED)
    return (given[i % REPEATED] for i in range(count))


@cache
def _expected() -> Images:
    return alone(bundled("lenet5", "vertical"), images("lenet5", REPEATED))


def with_standbys(bundle: Path, folder: Path, names: Sequence[str]) -> Path:
    """Return a copy of a bundle, whose plan has standbys, in a folder."""
    made = Path(shutil.copytree(bundle, folder / f"{bundle.name}-standbys", copy_function=os.link))
    manifest = json.loads((made / MANIFEST).read_text())
    plan = plan_of(bundle).model_copy(update={"standby": tuple(names)})
    (made / MANIFEST).unlink()
    (made / MANIFEST).write_text(json.dumps(manifest | {"plan": plan.toml()}))
    return made


def accounted(found: Sequence[Prediction | FrameFailed]) -> list[FrameFailed]:
    """Return the failures among `many` images in a vertical plan, whose outputs do not depend on the cuts.

    Check that each image has the right answer, or an error that names a device or link and a reason, and that no
    attempt answered two images.
    """
    for i, outcome in enumerate(found):
        if isinstance(outcome, Prediction):
            assert np.array_equal(outcome.output, _expected()[i % REPEATED])
        else:
            assert outcome.device or outcome.link, outcome
            assert outcome.reason
    numbers = [outcome.number for outcome in found if isinstance(outcome, Prediction)]
    assert len(set(numbers)) == len(numbers)
    return [outcome for outcome in found if isinstance(outcome, FrameFailed)]


def whole(model: str, given: Images) -> Images:
    """Return the outputs of the whole model."""
    made = graph(model)
    output: Images = evaluate(made, torch.from_numpy(given), [made.output])[made.output].numpy()
    return output
