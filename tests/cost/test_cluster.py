"""Cluster files and profiles, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloven
from cloven.cost.profile import DeviceProfile, LinkProfile, read_profile, shipped

PROFILE = """
name = "board"

[compute]
origin = "measured"
macs_per_second = 1e9
"""


def cluster(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_cluster_names_devices_links_and_their_profiles(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(PROFILE, "utf-8")
    path = cluster(
        tmp_path,
        """
        keys = "keys/coordinator"

        [devices]
        edge0 = "192.168.1.10:7001"
        edge1 = { address = "192.168.1.11:7001", profile = "board.toml", trusted = false }

        [links]
        default = { profile = "ethernet-100" }
        edge1-edge0 = { profile = "wifi", exposed = false, medium = "radio" }
        """,
    )

    found = cloven.Cluster.load(path)

    assert found.devices["edge0"].trusted
    assert not found.devices["edge1"].trusted
    assert found.devices["edge1"].profile is not None
    assert found.devices["edge1"].profile.name == "board"
    assert found.link("edge0", "edge1").medium == "radio"
    assert not found.link("edge0", "edge1").exposed
    assert found.link("coordinator", "edge0").profile is not None
    assert found.keys == str(tmp_path / "keys/coordinator")
    assert "edge1" in repr(found)


@pytest.mark.parametrize("kind", [DeviceProfile, LinkProfile])
def test_every_shipped_profile_can_be_read(kind: type[DeviceProfile]) -> None:
    assert shipped(kind)
    assert all(read_profile(kind, name, Path()).name for name in shipped(kind))


def test_all_problems_of_a_cluster_are_named_at_once(tmp_path: Path) -> None:
    path = cluster(
        tmp_path,
        """
        [devices]
        edge0 = "192.168.1.10"
        edge1 = { profile = "none-such" }
        edge2 = { profile = "missing.toml" }

        [links]
        edge0-edge7 = { profile = "wifi" }
        """,
    )

    with pytest.raises(cloven.ClovenError) as caught:
        cloven.Cluster.load(path)

    problems = "\n".join(caught.value.problems)
    assert "edge0 = '192.168.1.10' is not an address" in problems
    assert "there is no device profile 'none-such'; expected one of" in problems
    assert "cannot read" in problems
    assert "'edge0-edge7'" in problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PROFILE.replace("1e9", "-1.0"), "compute.macs_per_second is -1.0; expected a number greater than 0"),
        (PROFILE.replace("1e9", "inf"), "compute.macs_per_second is inf; expected a number, not infinite"),
        (PROFILE.replace("1e9", "'1e9'"), "compute.macs_per_second is '1e9'; expected a number"),
        (
            PROFILE + "operator = 0.1\noperators = [{ family = 'relu', macs = 0, bytes = 8, seconds = 1 }]\n",
            "either",
        ),
        (PROFILE + "[memory]\norigin = 'assumed'\nworker = '80MB'\n", "memory.worker is '80MB'; expected a whole"),
        (PROFILE + "[memory]\norigin = 'assumed'\nworker = 9\navailable = 8\n", "available is 8, less than worker"),
        (PROFILE + "[memory]\norigin = 'assumed'\nworker = 9\npaging = 1\n", "paging is given, but available is"),
        (PROFILE + "[power]\norigin = 'assumed'\nidle = 2\n", "power.busy is missing; add it"),
        (PROFILE + "[power]\norigin = 'assumed'\nidle = 2\nbusy = 1\n", "busy is 1, less than idle, 2"),
        (
            PROFILE + "[ciphers.rot13]\norigin = 'assumed'\nmessage = 0\nbyte = 0\n",
            "no cipher 'rot13'; expected one",
        ),
        (
            "name = 'wire'\n[transmission]\norigin = 'assumed'\nbandwidth = 1\ndelay = 0\n",
            "is the profile of a link",
        ),
        (PROFILE.replace("1e9", "1e-300"), "1e-300 is out of range; expected 1e-30 to 1e\\+30"),
        (
            PROFILE + "[memory]\norigin = 'assumed'\nworker = 99999999999999999999999999999999\n",
            "memory.worker: 1e\\+32 is out of range",
        ),
        ("", "name is missing; add it"),
        (PROFILE.replace("macs_per_second = 1e9", ""), "none of macs_per_second, operator and operators is given"),
        (PROFILE.replace('"measured"', '"source"'), "note is empty"),
        (PROFILE.replace('"measured"', '"guessed"'), "'measured', 'source' or 'assumed'"),
        (PROFILE + "colour = 1\n", "compute.colour is not a known entry"),
    ],
)
def test_a_profile_with_an_impossible_number_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(text, "utf-8")

    with pytest.raises(cloven.ClovenError, match=message):
        read_profile(DeviceProfile, "board.toml", tmp_path)


def test_a_cluster_with_device_names_that_no_plan_accepts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(
        '[devices]\n"a->b" = "host:1"\n"" = "host:2"\ncoordinator = "host:3"\n', "utf-8"
    )

    with pytest.raises(cloven.ClovenError) as caught:
        cloven.Cluster.load(tmp_path / "cluster.toml")

    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        f"a device is named {name}; expected printable text without '->' and ':'" for name in ("'a->b'", "''")
    ]


def test_a_wrong_profile_of_several_devices_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(PROFILE.replace("1e9", "0"), "utf-8")
    devices = "\n".join(f'edge{i} = {{ profile = "board.toml" }}' for i in range(3))
    (tmp_path / "cluster.toml").write_text(f"[devices]\n{devices}\n", "utf-8")

    with pytest.raises(cloven.ClovenError) as caught:
        cloven.Cluster.load(tmp_path / "cluster.toml")

    assert len(caught.value.problems) == 1
