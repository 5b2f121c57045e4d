"""Options that several commands share: the same flag means the same in each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cloven.errors import ClovenError

DAY = 86_400.0
"""Seconds that anything may be waited for."""

ModelName = Annotated[
    str,
    typer.Argument(
        help="lenet5, resnet20, torchvision:NAME, timm:NAME or package.module:factory.", metavar="MODEL"
    ),
]
InputSize = Annotated[
    str | None, typer.Option(help="One image: CHANNELSxHEIGHTxWIDTH; left out, the model's usual.", metavar="CxHxW")
]
Classes = Annotated[int | None, typer.Option(help="How many classes; left out, the model's usual.", min=2)]
Weights = Annotated[
    Path | None,
    typer.Option(help="A file or checkpoint (.safetensors, .pth, .ckpt, .npz, ...), or: pretrained (downloads)."),
]
PlanFile = Annotated[Path, typer.Argument(help="A plan written by `cloven plan`.", metavar="PLAN")]
Window = Annotated[int, typer.Option(help="--cluster: most images in flight.", min=1, max=256)]
Deadline = Annotated[float, typer.Option(help="--cluster: seconds after which an image fails.", min=0.1, max=DAY)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
PICTURES = "Of a picture, transparency is dropped, EXIF's orientation is not applied, and the first frame is read."
DATA = typer.Option(
    "--data", help=f"digits, mnist:DIR, cifar10:DIR, flowers102:DIR or folder:DIR. {PICTURES}", metavar="SPEC"
)

Keys = Annotated[Path | None, typer.Option(help="This party's folder of keys: mTLS, and keys of protected links.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="No mTLS; needed to listen without it where other machines reach us.")
]


def named(text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def given(context: typer.Context) -> set[str]:
    """The options that a person gave, by their names."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def useless(context: typer.Context, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Of options that were given but say nothing without others, which ``needs`` names: a sentence each."""
    said = given(context)
    lacking = {name: [f"--{other}" for other in needs[name] if other not in said] for name in needs if name in said}
    return [f"--{name} says nothing without {' and '.join(others)}" for name, others in lacking.items() if others]


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def numbers(text: str, count: int, option: str, example: str) -> tuple[int, ...]:
    """``3x32x32`` as numbers."""
    if not re.fullmatch(rf"\d+(x\d+){{{count - 1}}}", text):
        raise ClovenError(f"{option} is {text!r}; expected {count} numbers such as {example}")
    return tuple(int(part) for part in text.split("x"))


def device_of(name: str) -> str:
    """The device of a name; ``auto`` is CUDA where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
