"""Options that several commands share, with the same meaning in each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from cloven.errors import ClovenError

Value = TypeVar("Value")

DAY = 86_400.0
"""The maximum of all options for waiting times in seconds."""

# --- titles of groups in the help ---------------------------------------------------------------------------------

MODEL = "Model"
IMAGES = "Images"
STRATEGY = "Strategy"
LINKS = "Links"
WORKERS = "Workers"
LISTENER = "Listener"
OBSERVATIONS = "Observations"
ATTACKS = "Attacks"
COMPUTING = "Computing"
ENCLAVE = "Enclave"
LIMITS = "Limits"
GATE = "Gate for CI"
COST = "Cost of encryption"

# --- the model ----------------------------------------------------------------------------------------------------

NAMES = "lenet5, resnet20, torchvision:NAME, timm:NAME or package.module:factory"
ModelName = Annotated[str, typer.Argument(help=f"{NAMES}.", metavar="MODEL")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file that `cloven plan` wrote.", metavar="PLAN")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help=f"Model, if the plan does not name one: {NAMES}.",
        metavar="MODEL",
        rich_help_panel=MODEL,
    ),
]
InputSize = Annotated[
    str,
    typer.Option(
        help="Size of one image; default: the model's usual size. A module:factory has no usual size.",
        metavar="CxHxW",
        rich_help_panel=MODEL,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(help="Number of classes; default: the model's own.", min=2, metavar="N", rich_help_panel=MODEL),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="File of weights (.safetensors, .pth, .ckpt, .npz, ...), or `pretrained` to download the library's.",
        metavar="FILE",
        rich_help_panel=MODEL,
    ),
]
Mean = Annotated[
    str,
    typer.Option(
        help="Mean of each channel for the normalisation of images, e.g. 0.5,0.5,0.5; with --std.",
        metavar="M,M,M",
        rich_help_panel=MODEL,
    ),
]
Std = Annotated[
    str,
    typer.Option(help="Standard deviation of each channel; with --mean.", metavar="S,S,S", rich_help_panel=MODEL),
]

# --- images -------------------------------------------------------------------------------------------------------

PICTURES = "Transparency and EXIF orientation are ignored; of several frames, only the first is read."
DATA = typer.Option(
    "--data",
    help=f"Data set: digits, mnist:DIR, cifar10:DIR, flowers102:DIR, ton-iot:DIR or folder:DIR. {PICTURES}",
    metavar="SPEC",
    rich_help_panel=IMAGES,
)
Picture = Annotated[
    Path | None,
    typer.Option("--input", help=f"A picture, or a folder of pictures. {PICTURES}", rich_help_panel=IMAGES),
]
OwnImages = Annotated[
    str | None,
    typer.Option(
        "--auxiliary",
        help="The attacker's own images, which are sent first: photos, folder:DIR, ...",
        metavar="SPEC",
        rich_help_panel=IMAGES,
    ),
]
OwnCount = Annotated[
    int,
    typer.Option("--queries", help="Number of --auxiliary images.", min=2, metavar="N", rich_help_panel=IMAGES),
]
VictimCount = Annotated[
    int | None,
    typer.Option(
        "--victims",
        help="Number of victim images; default: all that are held out.",
        metavar="N",
        rich_help_panel=IMAGES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Take at most N images of --data or --input.", min=1, metavar="N", rich_help_panel=IMAGES),
]

# --- workers ------------------------------------------------------------------------------------------------------

Window = Annotated[
    int,
    typer.Option(help="Maximum number of images in flight.", min=1, max=256, metavar="N", rich_help_panel=WORKERS),
]
Batch = Annotated[
    int,
    typer.Option(
        help="Maximum number of images that a worker computes together, of those that wait for it. The last "
        "digits of outputs may differ.",
        min=1,
        max=256,
        metavar="N",
        rich_help_panel=WORKERS,
    ),
]
Deadline = Annotated[
    float,
    typer.Option(
        help="Time after which an image fails.", min=0.1, max=DAY, metavar="SECONDS", rich_help_panel=WORKERS
    ),
]
Standby = Annotated[
    str | None,
    typer.Option(
        help="Standbys that take the place of a lost or hanging device; default: all of the plan. They must have "
        "loaded the whole bundle.",
        metavar="NAME,...",
        rich_help_panel=WORKERS,
    ),
]
Fallback = Annotated[
    list[Path] | None,
    typer.Option(
        help="Another plan, to use when a lost or hanging device has no standby; repeat for several, in order. Its "
        "workers must have loaded its bundle too.",
        metavar="PLAN",
        rich_help_panel=WORKERS,
    ),
]
Listen = Annotated[str, typer.Option(help="Address to listen on; port 0 takes any free port.", metavar="HOST:PORT")]
Keys = Annotated[
    Path | None,
    typer.Option(
        help="Folder of this party's keys, created by `cloven keys`, for mutual TLS and protected links.",
        metavar="FOLDER",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Listen without mutual TLS, even if other machines can reach the address."),
]

# --- a listener ---------------------------------------------------------------------------------------------------

Numbers = Annotated[
    Literal["float32", "float16", "int8", "uint8"],
    typer.Option(
        help="Type of the numbers in clear messages: float16 or int8 by the transform of the link, uint8 for an "
        "image that is sent as bytes.",
        rich_help_panel=LISTENER,
    ),
]

# --- the enclave --------------------------------------------------------------------------------------------------

Backend = Annotated[
    str,
    typer.Option(
        help="Trusted half: simulated, gramine-direct or gramine-sgx.", metavar="NAME", rich_help_panel=ENCLAVE
    ),
]
Accelerator = Annotated[
    str, typer.Option(help="Device of the rear: cpu or cuda.", metavar="NAME", rich_help_panel=ENCLAVE)
]
Handover = Annotated[
    str,
    typer.Option(
        help="Transfer between the halves: memory, file (Rajasekar et al., 2024) or pipe (Gramine).",
        metavar="NAME",
        rich_help_panel=ENCLAVE,
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        help="Memory of the trusted half, a power of two such as 4G; auto: as `seal` computed it.",
        metavar="SIZE",
        rich_help_panel=ENCLAVE,
    ),
]
Threads = Annotated[int, typer.Option(help="Threads of each half.", min=1, metavar="N", rich_help_panel=ENCLAVE)]

# --- computing and output -----------------------------------------------------------------------------------------

Seed = Annotated[
    int,
    typer.Option(help="Seed of everything drawn at random.", metavar="N", rich_help_panel=COMPUTING),
]
Seeds = Annotated[
    int,
    typer.Option(
        help="Train each attack with N seeds: intervals then cover images and seeds.",
        min=1,
        metavar="N",
        rich_help_panel=ATTACKS,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of each attack; default: 10; for `residual`, until held-out pairs stop improving.",
        min=1,
        metavar="N",
        rich_help_panel=ATTACKS,
    ),
]
AttackSeconds = Annotated[
    float | None,
    typer.Option(
        help="Limit on the CPU (cuda: GPU) seconds of each training of an attack; default: no limit. "
        "It does not limit what refine and rmle compute for each image that they attack.",
        min=0,
        metavar="SECONDS",
        rich_help_panel=ATTACKS,
    ),
]
Device = Annotated[
    str,
    typer.Option(help="Train on cpu, cuda, or auto: cuda if available.", metavar="NAME", rich_help_panel=COMPUTING),
]
Disk = Annotated[
    float,
    typer.Option(
        help="Gigabytes of captured tensors to keep on disk; beyond that, they are computed again for each batch.",
        min=0,
        metavar="GB",
        rich_help_panel=COMPUTING,
    ),
]
MemoryLimit = Annotated[
    str,
    typer.Option(
        "--memory",
        help="Limit on the memory of all processes, such as 4GB: fewer run at a time, or the audit is refused.",
        metavar="SIZE",
        rich_help_panel=COMPUTING,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Number of worker processes; default: one per core.", min=1, metavar="N", rich_help_panel=COMPUTING
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


# --- parsing ------------------------------------------------------------------------------------------------------


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text such as ``a,b``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def by_device(
    text: str, option: str, convert: Callable[[str], Value], example: str, problems: list[str]
) -> dict[str, Value]:
    """Return the values in a text such as ``edge0=0.5,edge1=0.25`` by device.

    An entry that is wrong, or whose device occurs twice, is left out and its problem added to the others.
    """
    found: dict[str, Value] = {}
    for entry in names_in(text):
        device, _, value = (part.strip() for part in entry.rpartition("="))
        try:
            converted = convert(value)
        except ValueError:
            device = ""
        if not device:
            problems.append(f"{option}: {entry!r} is not an entry; expected {example}")
        elif device in found:
            problems.append(f"{option}: {device} occurs twice; remove one entry")
        else:
            found[device] = converted
    return found


def numbers(text: str, option: str, example: str) -> tuple[float, ...]:
    """Return the numbers in a text such as ``0.5,0.5``.

    Raises:
        ClovenError: for any other text.
    """
    try:
        return tuple(float(part) for part in names_in(text))
    except ValueError as error:
        raise ClovenError(f"{option} is {text!r}; expected numbers such as {example}") from error


def quantity(text: str, option: str, units: Mapping[str, float]) -> float:
    """Return a number with its unit, such as ``300ms``, in the unit whose factor is 1.

    Raises:
        ClovenError: for any other text.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)", text, re.ASCII)
    if found is None or found[2] not in units:
        raise ClovenError(f"{option} is {text!r}; expected a number and one of {', '.join(units)}")
    return float(found[1]) * units[found[2]]


SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def memory_size(text: str) -> int | None:
    """Return the bytes of ``--memory``; None for no text.

    Raises:
        ClovenError: for a text that is not a size such as ``4GB``.
    """
    return round(quantity(text, "--memory", SIZES)) if text else None


def sizes(text: str, count: int, option: str, example: str) -> tuple[int, ...]:
    """Return the numbers in a text such as ``3x32x32``.

    Raises:
        ClovenError: for any other text than ``count`` integers.
    """
    if not re.fullmatch(rf"\d+(x\d+){{{count - 1}}}", text, re.ASCII):
        raise ClovenError(f"{option} is {text!r}; expected {count} numbers such as {example}")
    return tuple(int(part) for part in text.split("x"))


def image_size(text: str) -> tuple[int, int, int]:
    """Return the channels, height and width in a text such as ``3x32x32``.

    Raises:
        ClovenError: for any other text.
    """
    channels, height, width = sizes(text, 3, "--input-size", "3x32x32")
    return channels, height, width


def given(context: typer.Context) -> set[str]:
    """Return the names of the options that the user gave."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def flag(name: str) -> str:
    """Return the option of a parameter's name, such as ``--fail-above``."""
    return "--" + name.replace("_", "-")


def unmet(context: typer.Context, requirements: Mapping[str, Sequence[str]]) -> list[str]:
    """Return an error for each option that was given without the others that it requires."""
    present = given(context)
    found = []
    for name, others in requirements.items():
        if missing := [flag(other) for other in others if other not in present and name in present]:
            found.append(f"{flag(name)} requires {' and '.join(missing)}")
    return found


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_of(name: str) -> str:
    """Return the device of a name; ``auto`` is CUDA if it is available."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
