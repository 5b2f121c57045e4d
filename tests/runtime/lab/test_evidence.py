"""The evidence of a tap: each difference from the plan and from the engine's tensors is reported."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cloven
from cloven.errors import ClovenError
from cloven.partition.plan import Plan, parse
from cloven.partition.program import Program
from cloven.partition.protection import Protection
from cloven.partition.transform import Transform, Transforms
from cloven.runtime.bundle import engine
from cloven.runtime.bundle.format import SendShare
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.lab import evidence, lab_folder
from cloven.runtime.lab.outcome import LinkEvidence, TapEvidence
from cloven.runtime.tap.extraction import CapturedMessages
from cloven.runtime.tap.live import RecordingSummary
from cloven.runtime.unit_images import unit

SHAPE = (1, 12, 12)
VERTICAL = '[strategy]\nkind = "vertical"\ncuts = ["1"]'
HORIZONTAL = '[strategy]\nkind = "horizontal"'


@cache
def divided(strategy: str, devices: int, protection: str = "none", transform: str = "none") -> tuple[Plan, Program]:
    """Return a plan of a small CNN with random weights, and its program."""
    names = [f"edge{i}" for i in range(devices)]
    text = (
        f'version = 1\ndevices = {names}\n{strategy}\n[model]\nname = "small"\ninput = {list(SHAPE)}\nclasses = 5'
    )
    changed = {
        "protection": Protection(default=protection),  # type: ignore[arg-type]
        "transform": Transforms(default=Transform(transform)),
    }
    plan = parse(text).model_copy(update=changed)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(384, 5)
    )
    return plan, cloven.compile(capture(model.eval(), torch.zeros(1, *SHAPE)), plan)


def pixels(count: int) -> Any:
    """Return random images, 0 to 255."""
    return np.random.default_rng(1).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def captured(bundle: Path, source: str, target: str, images: Any) -> CapturedMessages:
    """Return an ideal tap's result: everything that the engine sends on a link, by message and image."""
    said: dict[int, list[list[Any]]] = defaultdict(lambda: [[] for _ in images])

    for i, image in enumerate(images):

        def tap(device: str, send: SendShare, array: engine.Array, i: int = i) -> None:
            if (device, send.target) == (source, target):
                said[send.message][i].append(array.reshape(-1))

        engine.run(bundle, unit(image[None]), batch=1, tap=tap)
    messages = {k: np.stack([np.concatenate(parts) for parts in rows]) for k, rows in said.items()}
    return CapturedMessages(np.arange(len(images)), messages, "a -> b", False, 0, ())


@pytest.fixture(scope="module", params=["vertical", "horizontal"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CapturedMessages]:
    """A bundle, and a capture of four images on its first link."""
    text, devices = (VERTICAL, 2) if request.param == "vertical" else (HORIZONTAL, 3)
    plan, made = divided(text, devices)
    bundle = tmp_path_factory.mktemp("evidence") / "bundle"
    write(made, bundle, model="small", plan=plan.toml())
    here = captured(bundle, "edge0", "edge1", pixels(4))
    assert (len(here.messages) > 1) == (request.param == "horizontal")
    return bundle, here


LINK = ("edge0", "edge1")


def differing(bundle: Path, here: CapturedMessages, inputs: Any = None) -> int:
    known = np.arange(4) if inputs is None else np.array(inputs)
    return evidence.differing(bundle, here, LINK, known, pixels(4)[known])


def changed(here: CapturedMessages, message: int, block: Any) -> CapturedMessages:
    return replace(here, messages={**here.messages, message: block})


def test_the_tensors_of_the_engine_do_not_differ(found: tuple[Path, CapturedMessages]) -> None:
    assert differing(*found) == 0


def test_one_bit_is_one_number(found: tuple[Path, CapturedMessages]) -> None:
    bundle, here = found
    last = max(here.messages)
    block = here.messages[last].copy()
    block[2].view(np.uint32)[-1] ^= 1

    assert differing(bundle, changed(here, last, block)) == 1


def test_the_sign_of_a_zero_is_a_difference(found: tuple[Path, CapturedMessages]) -> None:
    bundle, here = found
    block = here.messages[0].copy()
    zeros = np.argwhere(block == 0)
    if not len(zeros):
        pytest.skip("this message has no zeros")
    block[tuple(zeros[0])] = -block[tuple(zeros[0])]

    assert differing(bundle, changed(here, 0, block)) == 1


def test_images_that_are_exchanged_differ(found: tuple[Path, CapturedMessages]) -> None:
    bundle, here = found

    assert differing(bundle, changed(here, 0, here.messages[0][::-1].copy())) > 100


def test_a_message_that_is_not_there_differs_in_all_its_numbers(found: tuple[Path, CapturedMessages]) -> None:
    bundle, here = found
    last = max(here.messages)
    without = replace(here, messages={k: block for k, block in here.messages.items() if k != last})

    assert differing(bundle, without) == here.messages[last].size
    assert differing(bundle, changed(here, last, here.messages[last][:, :-3].copy())) == 3 * 4


def test_only_images_whose_pixels_are_known_are_compared(found: tuple[Path, CapturedMessages]) -> None:
    bundle, here = found
    block = here.messages[0].copy()
    block[1] += 1

    assert differing(bundle, changed(here, 0, block), [0, 2, 3]) == 0
    assert differing(bundle, changed(here, 0, block), [1, 2]) == here.messages[0].shape[1]


# --- comparison with the plan ---------------------------------------------------------------------------------


def tap(**other: Any) -> TapEvidence:
    """Return the evidence of a tap on a plain link after ten images, without differences."""
    there = LinkEvidence(link=("edge0", "edge1"), kind="plain", inputs=10, payload=400, table=400, bytes=900)
    back = LinkEvidence(link=("edge1", "edge0"), kind="HTTP/2", inputs=0, payload=0, table=0, bytes=90)
    recorded = RecordingSummary(packets=9, bytes=990, left_out=0, dropped=0, seconds=1.0)
    found = TapEvidence(
        recorded=recorded, protection="none", tls=False, links=(there, back), warnings=(), images=10, differing=0
    )
    return found.model_copy(update=other)


def first(**other: Any) -> tuple[LinkEvidence, LinkEvidence]:
    """Return both directions, with a change to the first."""
    one, two = tap().links
    return one.model_copy(update=other), two


def test_evidence_that_matches_the_plan_has_no_differences() -> None:
    hidden = {"kind": "TLS", "inputs": 0, "payload": 0}
    assert list(evidence.unexpected(tap(), 10)) == []
    assert list(evidence.unexpected(tap(protection="ascon-128", links=first(kind="protected")), 10)) == []
    assert list(evidence.unexpected(tap(protection="mtls", tls=True, images=0, links=first(**hidden)), 10)) == []
    assert list(evidence.unexpected(tap(protection="none", tls=True, images=0, links=first(**hidden)), 10)) == []


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"links": first(payload=360, inputs=9)},
            "edge0 > edge1: the tap found 360 bytes of payload; expected 400",
        ),
        ({"links": first(kind="HTTP/2", payload=0)}, "edge0 > edge1: the tap saw HTTP/2; expected plain"),
        ({"protection": "aes-128-gcm"}, "edge0 > edge1: the tap saw plain; expected protected"),
        ({"tls": True, "links": first(payload=0)}, "edge0 > edge1: the tap saw plain; expected TLS"),
        ({"tls": True, "links": first(kind="TLS")}, "the tap found 400 bytes of payload; expected 0"),
        ({"images": 9}, "the tap found the messages of 9 images; 10 were sent"),
        ({"differing": 1}, "1 captured numbers are not bit-identical to what the engine sends in one process"),
        ({"warnings": ("the recorder dropped 3 packets",)}, "the recorder dropped 3 packets"),
    ],
)
def test_each_difference_is_reported(other: dict[str, Any], sentence: str) -> None:
    assert sentence in "\n".join(evidence.unexpected(tap(**other), 10))


# --- the folder -----------------------------------------------------------------------------------------------


def test_a_folder_is_new_empty_or_an_earlier_laboratorys(tmp_path: Path) -> None:
    assert lab_folder.problems(tmp_path / "new" / "one") == []
    assert lab_folder.problems(tmp_path) == []
    for name in lab_folder.OURS:
        (tmp_path / name).touch()
    assert lab_folder.problems(tmp_path) == []


@pytest.mark.parametrize("names", [["plan.toml"], ["notes.txt", "pixels.safetensors"], ["bundle", "keys"]])
def test_a_folder_with_anything_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()

    (problem,) = lab_folder.problems(tmp_path)

    assert f"{tmp_path} holds " in problem
    assert "which is not part of a laboratory" in problem


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert lab_folder.problems(tmp_path / "file") == [
        f"{tmp_path / 'file'} cannot be used for the laboratory: Not a directory; choose a new folder"
    ]


def test_a_link_in_the_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").touch()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "pairs").symlink_to(tmp_path / "mine")
    (tmp_path / "lab" / "logs").mkdir()

    lab_folder.emptied(tmp_path / "lab")

    assert list((tmp_path / "lab").iterdir()) == []
    assert (tmp_path / "mine" / "photo.png").exists()


def test_a_folder_is_that_of_one_laboratory_at_a_time(tmp_path: Path) -> None:
    with (
        lab_folder.held(tmp_path / "lab"),
        pytest.raises(ClovenError, match=r"another laboratory is running in .*lab; wait until it has ended"),
        lab_folder.held(tmp_path / "lab"),
    ):
        pass
    with lab_folder.held(tmp_path / "lab"):
        assert list((tmp_path / "lab").iterdir()) == []
