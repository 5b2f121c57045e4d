"""The profile that a device makes of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cloven
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.profile import DeviceProfile, LinkProfile, profile_toml, read_profile
from cloven.runtime.bundle import writer
from cloven.runtime.bundle.reader import read_device
from cloven.runtime.device_profile import measured


@pytest.fixture(scope="module")
def program() -> cloven.Program:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    )
    model = cloven.capture(net.eval(), torch.zeros(1, 1, 16, 16))
    return cloven.divide(model, cloven.Vertical(cuts=["3"]), devices=2)


@pytest.fixture(scope="module")
def profile(program: cloven.Program, tmp_path_factory: pytest.TempPathFactory) -> DeviceProfile:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    writer.write(program, folder, model="small", plan="")
    parts = [(read_device(folder / device)[1], folder / device) for device in program.devices]
    return measured(parts, "this machine", runs=3)


def test_it_knows_every_operator_of_the_bundle(profile: DeviceProfile) -> None:
    families = {row.family: row for row in profile.compute.operators}

    assert families["conv2d 3x3"].macs == 16 * 16 * 8 * 9
    assert families["conv2d 3x3"].seconds > 0
    assert families["aten.relu.default after conv"].seconds == 0  # computed together with the convolution
    assert families["linear"].bytes == 4 * (512 + 512 * 10 + 10 + 10)


def test_ciphers_messages_and_memory_are_measured(profile: DeviceProfile) -> None:
    assert profile.messages is not None
    assert profile.messages.send > 0
    assert profile.memory is not None
    assert 10e6 < profile.memory.worker < 1e9
    assert profile.memory.weights >= 1
    assert profile.ciphers["aes-128-gcm"].message > 0
    assert profile.power is None  # it cannot be measured here


def test_a_profile_is_read_as_it_was_written(profile: DeviceProfile, tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(profile_toml(profile), "utf-8")

    assert read_profile(DeviceProfile, "device.toml", tmp_path) == profile


def test_a_plan_can_be_estimated_with_it(profile: DeviceProfile, program: cloven.Program) -> None:
    wire = read_profile(LinkProfile, "ethernet-100", Path())
    cluster = cloven.Cluster({d: ClusterDevice(profile) for d in program.devices}, default=ClusterLink(wire))

    cost = cloven.estimate(program, cluster)

    assert cost.latency is not None
    assert [line for line in cost.unknown if "power" not in line and "energy" not in line] == []


def test_a_bundle_without_its_operators_is_refused(program: cloven.Program, tmp_path: Path) -> None:
    writer.write(program, tmp_path / "bundle", model="small", plan="")
    _, part = read_device(tmp_path / "bundle" / "edge0")
    bare = part.model_copy(update={"steps": tuple(s.model_copy(update={"operators": ()}) for s in part.steps)})

    with pytest.raises(cloven.ClovenError, match="does not list its operators"):
        measured([(bare, tmp_path / "bundle" / "edge0")], "this machine")
