"""A complete laboratory: real links, real workers, a real tap; and nothing remains of it, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cloven.cli.lab import print_laboratory
from cloven.errors import ClovenError
from cloven.runtime.bundle.format import SendShare
from cloven.runtime.bundle.reader import read
from cloven.runtime.lab import evidence, lab_folder, laboratory
from cloven.runtime.lab.laboratory import Experiment
from cloven.runtime.lab.network import Network
from cloven.runtime.lab.outcome import LabOutcome, LabResult, TapEvidence
from cloven.runtime.link.session import HEADER, MAGIC
from cloven.runtime.tap.live import RecordingSummary
from tests.runtime.lab.programs import in_namespaces, root, set_link
from tests.runtime.lab.test_evidence import HORIZONTAL, VERTICAL, divided, pixels

MBIT = 10**6


def experiment(
    folder: Path,
    strategy: str = VERTICAL,
    devices: int = 2,
    protection: str = "none",
    images: int = 12,
    transform: str = "none",
    **other: Any,
) -> Experiment:
    """Return an experiment with a small CNN; three of the images are the attacker's."""
    plan, program = divided(strategy, devices, protection, transform)
    return Experiment(plan, program, pixels(images), 3, folder, tap=("edge0", "edge1"), **other)


# --- the tap --------------------------------------------------------------------------------------------------


def tapped(found: LabResult) -> TapEvidence:
    assert found.tap is not None
    return found.tap


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, LabResult]:
    """A pipeline of two devices without protection, with a tap."""
    made = experiment(tmp_path_factory.mktemp("plain") / "lab", bandwidth=100 * MBIT)
    return made, laboratory.run(made)


@root
def test_the_traffic_of_a_plain_link_matches_the_plan_bit_by_bit(
    plain: tuple[Experiment, LabResult],
) -> None:
    made, found = plain
    tap = tapped(found)
    table = 12 * made.program.sent(("edge0", "edge1"))
    there, back = tap.links

    assert (found.summary.images, found.summary.answered, found.summary.failed) == (12, 12, ())
    assert (there.kind, there.inputs, there.payload, there.table) == ("plain", 12, table, table)
    assert (back.payload, back.table) == (0, 0)
    assert there.bytes > table
    assert (tap.differing, tap.images, tap.unexpected) == (0, 12, ())
    assert {row.link: row.bytes for row in found.summary.links}["edge0", "edge1"] == table
    assert [row.bandwidth_bits for row in found.network] == [100 * MBIT] * 3
    json.dumps(found.model_dump(), allow_nan=False)


@root
def test_the_pairs_join_what_was_sent_and_what_was_captured(plain: tuple[Experiment, LabResult]) -> None:
    made, found = plain
    folder = Path(tapped(found).pairs or "")
    captured, sent = load_file(folder / "captured.safetensors"), load_file(folder / "images.safetensors")

    assert np.array_equal(captured["input"], np.arange(12))
    assert np.array_equal(sent["input"], captured["input"])
    assert np.array_equal(sent["image"], made.pixels)
    assert sent["auxiliary"].tolist() == [True] * 3 + [False] * 9
    assert captured["0"].dtype == np.float32
    assert captured["0"].shape == (12, made.program.sent(("edge0", "edge1")) // 4)


@root
def test_the_clocks_of_one_machine_are_one(plain: tuple[Experiment, LabResult]) -> None:
    _, found = plain

    assert all(row.uncertain_ms == 0 and row.ms > 0 for row in found.summary.links)


@root
@pytest.mark.parametrize("transform", ["none", "int8"])
def test_several_messages_a_link_are_found_each_in_its_place(transform: str, tmp_path: Path) -> None:
    made = experiment(tmp_path / "lab", HORIZONTAL, images=6, transform=transform)
    tap = tapped(laboratory.run(made))
    steps = read(tmp_path / "lab" / "bundle").parts["edge0"].steps
    messages = {step.message for step in steps if isinstance(step, SendShare) and step.target == "edge1"}

    assert len(messages) > 1
    assert load_file(tmp_path / "lab" / "pairs" / "captured.safetensors").keys() == {"input", *map(str, messages)}
    assert [row.payload for row in tap.links] == [row.table for row in tap.links]
    assert all(row.table > 0 for row in tap.links)
    assert (tap.differing, tap.unexpected) == (0, ())


@root
def test_a_protected_link_shows_as_many_bytes_and_no_numbers(
    plain: tuple[Experiment, LabResult], tmp_path: Path
) -> None:
    made = experiment(tmp_path / "lab", protection="chacha20-poly1305")
    tap = tapped(laboratory.run(made))
    there, _ = tap.links
    table = 12 * made.program.sent(("edge0", "edge1"))
    captured = load_file(tmp_path / "lab" / "pairs" / "captured.safetensors")["0"]
    clear = load_file(plain[0].folder / "pairs" / "captured.safetensors")["0"].view(np.uint8)

    assert (there.kind, there.payload) == ("protected", table)
    assert tap.differing is None
    assert tap.unexpected == ()
    assert captured.dtype == np.uint8
    assert captured.shape == (12, table // 12 + 16)
    assert (captured[:, :-16] == clear).mean() < 0.02  # by chance 1 in 256


@root
@pytest.mark.slow  # TLS is also seen in tests/cli
def test_nothing_can_be_read_of_mtls_and_the_command_says_so(tmp_path: Path) -> None:
    tap = tapped(laboratory.run(experiment(tmp_path / "lab", protection="mtls", images=5)))
    there, _ = tap.links

    assert (there.kind, there.inputs, there.payload) == ("TLS", 0, 0)
    assert there.bytes > there.table > 0
    assert (tap.tls, tap.pairs, tap.images, tap.unexpected) == (True, None, 0, ())
    assert not (tmp_path / "lab" / "pairs" / "captured.safetensors").exists()


@root
def test_a_table_says_what_the_tap_found(
    plain: tuple[Experiment, LabResult], capsys: pytest.CaptureFixture[str]
) -> None:
    made, found = plain
    print_laboratory(found)
    out = capsys.readouterr().out
    table = f"{12 * made.program.sent(('edge0', 'edge1')):,}"
    (row,) = [line.split() for line in out.splitlines() if line.startswith(" edge0 > edge1")]

    assert row[3:7] == ["plain", "12", table, table]
    assert "packets; protection: none" in out
    assert "0 captured numbers differ from what the engine sends in one process." in out
    assert f"cloven audit MODEL --data SPEC --pairs {tapped(found).pairs}" in out
    assert "edge0 - edge1" in out
    assert "veth + tbf" in out


# --- emulated devices ------------------------------------------------------------------------------------------


@root
@pytest.mark.slow
def test_a_slow_device_takes_its_time_divided_by_its_speed(tmp_path: Path) -> None:
    """Four devices at a quarter of the speed run side by side, on two cores too."""

    def compute(speed: float) -> dict[str, float]:
        plan, program = divided(HORIZONTAL, 4)
        speeds = dict.fromkeys(plan.devices, speed)
        found = laboratory.run(Experiment(plan, program, pixels(100), 0, tmp_path / "lab", speeds=speeds, window=1))
        assert [(row.device, row.speed) for row in found.emulated] == list(speeds.items())
        assert found.summary.answered == 100
        return {row.device: row.compute_ms for row in found.summary.devices}

    full, quarter = compute(1.0), compute(0.25)

    assert all(0.6 < quarter[device] / 4 / full[device] < 1.6 for device in full)


@root
def test_wrong_speeds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ClovenError) as refused:
        laboratory.run(experiment(tmp_path / "lab", speeds={"edge0": 0.0, "edge1": float("nan"), "edge9": 0.5}))

    assert refused.value.problems == (
        "speed of edge0: expected a number above 0, at most 1, got 0",
        "speed of edge1: expected a number above 0, at most 1, got nan",
        "speed of edge9: the plan has no such device; its devices are edge0, edge1",
    )
    assert not (tmp_path / "lab").exists()


@root
def test_a_warm_up_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClovenError, match="the images were not sent"):
        laboratory.run(experiment(tmp_path / "lab", speeds={"edge0": 0.5}, deadline=1e-4))

    assert "cloven: a device could not measure its jobs: " in capfd.readouterr().err


# --- measured links -------------------------------------------------------------------------------------------


@pytest.mark.slow
@root
def test_links_are_measured_as_they_were_made(tmp_path: Path) -> None:
    """20 Mbit/s with all headers and 10 ms; a busy machine may make them slower, but not faster."""
    made = experiment(tmp_path / "lab", bandwidth=20 * MBIT, delay=0.01)
    with laboratory.system(made) as net:
        command = [sys.executable, "-P", "-m", "cloven.cli", "profile", "--links", tmp_path / "lab/cluster.toml"]
        argv = net.command("coordinator", [*map(str, command), "--json"])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["failed"] == []
    assert len(found["measured"]) == 3
    for link in found["measured"]:
        costs = link["profile"]["transmission"]
        assert 10e6 < costs["bandwidth"] < 20e6
        assert 0.009 < costs["delay"] < 0.03
        assert costs["message"] < 0.02


# --- evidence that fails --------------------------------------------------------------------------------------


@pytest.fixture
def copied(plain: tuple[Experiment, LabResult], tmp_path: Path) -> tuple[Experiment, Path]:
    """A copy of the plain experiment's folder that a test may damage."""
    shutil.copytree(plain[0].folder, tmp_path / "lab")
    return plain[0], tmp_path / "lab"


def blocks(capture: bytes) -> list[bytearray]:
    """Return the blocks of a pcapng file."""
    found, at = [], 0
    while at < len(capture):
        (size,) = struct.unpack_from("<I", capture, at + 4)
        found.append(bytearray(capture[at : at + size]))
        at += size
    return found


def examined(made: Experiment, folder: Path, capture: list[bytearray]) -> TapEvidence:
    (folder / "link.pcapng").write_bytes(b"".join(capture))
    return evidence.examine(
        folder,
        made.program,
        ("edge0", "edge1"),
        addresses={"edge0": "10.77.0.2", "edge1": "10.77.0.3"},
        images=12,
        recorded=RecordingSummary(packets=1, bytes=1, left_out=0, dropped=0, seconds=1.0),
        protection="none",
        tls=False,
    )


@root
def test_one_bit_changed_in_the_packets_is_one_number_that_differs(copied: tuple[Experiment, Path]) -> None:
    made, folder = copied
    capture = blocks((folder / "link.pcapng").read_bytes())
    block = next(block for block in capture if MAGIC in block)
    block[block.index(MAGIC) + HEADER] ^= 1
    tap = examined(made, folder, capture)

    assert tap.differing == 1
    assert tap.unexpected == ("1 captured numbers are not bit-identical to what the engine sends in one process",)


@root
def test_a_missing_packet_is_reported(copied: tuple[Experiment, Path]) -> None:
    made, folder = copied
    capture = blocks((folder / "link.pcapng").read_bytes())
    capture.remove([block for block in capture if MAGIC in block][2])
    tap = examined(made, folder, capture)
    said = "\n".join(tap.unexpected)

    assert tap.images < 12
    assert "bytes of payload; expected" in said
    assert "images; 12 were sent" in said
    assert "bytes are missing in 1 gaps" in said


@root
def test_a_tap_that_recorded_nothing_is_reported(copied: tuple[Experiment, Path]) -> None:
    made, folder = copied
    capture = blocks((folder / "link.pcapng").read_bytes())
    tap = examined(made, folder, capture[:2])

    assert (tap.images, tap.pairs) == (0, None)
    assert "edge0 > edge1: the tap saw nothing; expected plain" in tap.unexpected


# --- links that fail ------------------------------------------------------------------------------------------


def packets(net: Network, of: str, to: str) -> int:
    """Return the number of packets that an interface has sent."""
    argv = net.command(of, ["ip", "-s", "-j", "link", "show", "dev", net.interface(of, to)])
    (found,) = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return int(found["stats64"]["tx"]["packets"])


def cut_amid(net: Network, one: str, other: str, seconds: float) -> threading.Thread:
    """Cut a link for some seconds once images are in flight."""

    def cut() -> None:
        while packets(net, one, other) < 40:
            time.sleep(0.02)
        set_link(net, one, other, up=False)
        time.sleep(seconds)
        set_link(net, one, other, up=True)

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    return thread


def sent_with_a_cut(made: Experiment, link: tuple[str, str], seconds: float) -> LabOutcome:
    with laboratory.system(made) as net:
        thread = cut_amid(net, *link, seconds)
        found = laboratory.send(made, net)
        thread.join(30)
    return found


@root
@pytest.mark.slow
@pytest.mark.parametrize("link", [("edge0", "edge1"), ("coordinator", "edge0"), ("edge1", "coordinator")])
def test_a_link_that_is_down_for_five_seconds_only_delays(tmp_path: Path, link: tuple[str, str]) -> None:
    made = experiment(tmp_path / "lab", images=250, bandwidth=MBIT, deadline=20.0)
    found = sent_with_a_cut(made, link, 5.0)

    assert found.summary.failed == ()
    assert found.summary.answered == 250
    assert 4000 < found.summary.latency.largest_ms < 20000


@root
@pytest.mark.slow
def test_a_link_that_is_down_for_longer_than_the_deadline_fails_images_with_its_name(tmp_path: Path) -> None:
    made = experiment(tmp_path / "lab", images=250, bandwidth=MBIT, deadline=2.0)
    found = sent_with_a_cut(made, ("edge0", "edge1"), 6.0)
    reasons = [failure.reason for failure in found.summary.failed]

    assert 8 <= len(reasons) < 250
    assert all(reason.startswith("edge0 -> edge1: no answer within 2 s") for reason in reasons)
    assert found.summary.answered == 250 - len(reasons)


@root
def test_standbys_are_left_out(tmp_path: Path) -> None:
    made = experiment(tmp_path / "lab", images=4)
    plan = made.plan.model_copy(update={"standby": ("edge7",)})
    found = laboratory.run(Experiment(plan, made.program, pixels(4), 0, tmp_path / "lab"))

    assert found.summary.answered == 4


@root
def test_lost_packets_are_sent_again(tmp_path: Path) -> None:
    made = experiment(tmp_path / "lab", images=60, loss=0.03)
    found = laboratory.run(made)

    assert {row.loss for row in found.network} == {0.03}
    assert (found.summary.answered, tapped(found).differing, tapped(found).unexpected) == (60, 0, ())


@root
@pytest.mark.slow
def test_a_slow_link_takes_what_its_bandwidth_says(tmp_path: Path) -> None:
    made = experiment(tmp_path / "lab", images=100, bandwidth=MBIT)
    found = laboratory.run(made)
    (row,) = [row for row in tapped(found).links if row.table]

    assert tapped(found).unexpected == ()
    assert found.summary.seconds > 0.9 * row.bytes * 8 / MBIT
    assert found.summary.images_a_second is not None
    assert found.summary.images_a_second < 1.1 * MBIT / 8 / (row.table / 100)


# --- invalid experiments --------------------------------------------------------------------------------------


def test_a_tap_on_a_link_that_carries_nothing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    plan, program = divided(VERTICAL.replace('"1"', '"0", "2"'), 3)
    for tap in (("edge0", "edge2"), ("edge1", "edge0")):
        with pytest.raises(ClovenError) as refused:
            laboratory.run(Experiment(plan, program, pixels(2), 0, tmp_path / "lab", tap=tap))
        assert (
            f"{tap[0]} sends nothing to {tap[1]} in this plan; the links that carry data: edge0-edge1, edge1-edge2"
            in refused.value.problems
        )
    assert not (tmp_path / "lab").exists()


@root
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ClovenError, match="file/lab cannot be used for the laboratory: Not a directory"):
        laboratory.run(experiment(tmp_path / "file" / "lab"))


@root
def test_a_worker_that_does_not_start_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laboratory, "PORT", 70000)

    with pytest.raises(ClovenError) as refused:
        laboratory.run(experiment(tmp_path / "lab"))

    assert refused.value.problems[0].startswith("the worker of edge")
    assert "did not start; its log ends with: --listen is '10.77.0." in refused.value.problems[0]


# --- the end of a laboratory ----------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from cloven.cli import main
from cloven.runtime.lab import laboratory

def told(experiment, net):
    import os
    print(*(os.stat(f"/proc/{party.pid}/ns/net").st_ino for party in net.parties.values()), flush=True)
    return send(experiment, net)

send, laboratory.send = laboratory.send, told
main()
"""
"""The command; it prints its namespaces once all workers are ready."""

NET = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
"""

PLAN = """version = 1
devices = ["edge0", "edge1"]
[model]
name = "small_net:small"
input = [1, 28, 28]
classes = 10
[strategy]
kind = "vertical"
cuts = ["1"]
"""


@pytest.fixture
def begun(here: Path) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """The command at the start of an experiment of half a minute, and its namespaces."""
    (here / "nets").mkdir()
    (here / "nets" / "small_net.py").write_text(NET)
    (here / "random.py").write_text("raise SystemExit('what lies in the working folder was imported')")
    (here / "plan.toml").write_text(PLAN)
    (here / "photos").mkdir()
    for i in range(10):
        Image.fromarray(np.full((28, 28), 20 * i, np.uint8)).save(here / "photos" / f"{i}.png")
    command = ["lab", "plan.toml", "--input", "photos", "--bandwidth", "20kbit", "--tap", "edge0-edge1"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, *command],
        env=os.environ | {"PYTHONPATH": str(here / "nets")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as lab:
        try:
            assert lab.stdout
            inodes = set(map(int, lab.stdout.readline().split()))
            assert len(inodes) == 3, lab.communicate()
            yield lab, inodes
        finally:
            lab.kill()


def gone(inodes: set[int]) -> bool:
    """Return whether no process is left in the namespaces after a while."""
    until = time.monotonic() + 5
    while in_namespaces(inodes) and time.monotonic() < until:
        time.sleep(0.02)
    return not in_namespaces(inodes)


@root
@pytest.mark.slow  # what does it is tested with the network
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_laboratory_that_is_killed(
    begun: tuple[subprocess.Popen[str], set[int]], end: signal.Signals
) -> None:
    lab, inodes = begun
    until = time.monotonic() + 10
    while len(in_namespaces(inodes)) < 7:  # three guards, two workers, the tap, and soon the sender
        assert time.monotonic() < until
        time.sleep(0.02)
    lab.send_signal(end)
    lab.wait(20)

    assert gone(inodes)
    assert "to-edge" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


@root
@pytest.mark.slow  # in one process it is tested with the commands
def test_ctrl_c_ends_a_laboratory_with_a_message(begun: tuple[subprocess.Popen[str], set[int]], here: Path) -> None:
    lab, inodes = begun
    time.sleep(1)
    lab.send_signal(signal.SIGINT)
    _, err = lab.communicate(timeout=30)

    assert lab.returncode == 130
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
    assert gone(inodes)
    # The remaining files mark it as a laboratory's folder: the next one may replace it.
    assert lab_folder.problems(here / "lab") == []
