"""Errors of the commands for several machines: exit code 2, all errors at once, no incomplete files."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloven.partition.plan import parse
from cloven.runtime.lab import host
from tests.cli.conftest import Done, Run
from tests.cli.processes import Process, process
from tests.partition.texts import LENET5

PLAN = f"""version = 1
devices = ["edge0", "edge1", "edge2"]
{LENET5}cuts = ["conv2", "pool2"]
"""


def refused(done: Done, *messages: str, lines: int | None = None) -> None:
    """Check that a command failed with these messages, each on its own line."""
    said = done.err.splitlines()
    assert done.code == 2, done
    assert all(line.startswith("cloven: ") for line in said), done.err
    for message in messages:
        assert message in done.err, done.err
    assert len(said) == (len(messages) if lines is None else lines), done.err


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with plan.toml, ascon.toml, bundles of both, and keys."""
    from cloven.cli.models import graph_of
    from cloven.partition import plan as plans
    from cloven.runtime.bundle.writer import write
    from cloven.runtime.link import authority

    folder = tmp_path_factory.mktemp("material")
    plan = parse(PLAN)
    made = plans.compile(graph_of(plan.named_model), plan)
    write(made, folder / "bundle", model="lenet5", plan=PLAN)
    protected = PLAN + '[protection]\ndefault = "ascon-aead128"\n'
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    shutil.copytree(folder / "bundle", folder / "ascon")
    manifest |= {"plan": protected, "protection": parse(protected).protection.model_dump()}
    (folder / "ascon" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "plan.toml").write_text(PLAN)
    authority.new(plan.devices, folder / "keys")
    return folder


@pytest.fixture
def inside(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a copy of the material, and check at the end that it has not changed."""
    shutil.copytree(material, tmp_path / "here", copy_function=os.link)
    (tmp_path / "here" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    before = contents()
    yield tmp_path / "here"
    assert contents() == before


def contents() -> dict[str, int]:
    """Return the files of the working folder and their sizes."""
    return {str(path): path.stat().st_size for path in Path().rglob("*") if path.is_file()}


# --- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (
            ("new", "--out", ".", "--days", "0", "--", "edge0", "Edge0", "coordinator", "-x"),
            ("'Edge0' is taken (by 'edge0')", "'coordinator' is taken", "'-x' is not a device name",
             ". exists and is not an empty folder", "days must be between 1 and 3650, got 0"),
        ),
        (("new", "", "--out", "new"), ("'' is not a device name",)),
        (("new", "a", "--out", "notes.txt/keys"), ("notes.txt",)),
        (("add", "nowhere", "edge3"), ("nowhere is not a folder of keys",)),
        (("add", "keys", "edge0", "edge3", "--days", "9999"), ("'edge0' is taken", "got 9999")),
        (("renew", "keys", "edge7", "--days", "0"), ("has no folder for 'edge7'", "got 0")),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_made(
    cloven: Run, inside: Path, args: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    refused(cloven("keys", *args), *messages)


# --- workers --------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(cloven: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the command, which must fail before it serves."""

    async def serve(*_: object, **__: object) -> None:
        raise AssertionError("this worker would serve")

    monkeypatch.setattr("cloven.runtime.cluster.worker.serve", serve)
    return lambda *args: cloven("worker", *args)


LOOPBACK = "other machines can reach this address, and without mTLS they"


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (("nowhere/edge0",), ("is not a bundle: manifest.json is missing",)),
        (("bundle",), ("needs a name: give --name or --keys, or a device's folder, such as BUNDLE/edge0",)),
        (("bundle/edge7",), ("bundle/edge7 is not a device's folder of the bundle; expected one of bundle/ed",)),
        (
            ("bundle/edge7", "--listen", "here", "--metrics", "127.0.0.1:99999", "--speed", "0"),
            ("--speed is 0; expected a number above 0, at most 1",
             "--listen is 'here'; expected", "--metrics is '127.0.0.1:99999'", "bundle/edge7 is not a device's"),
        ),
        (
            ("bundle/edge1", "--listen", "0.0.0.0:7001", "--metrics", "0.0.0.0:9101"),
            (f"--listen 0.0.0.0:7001: {LOOPBACK}", f"--metrics 0.0.0.0:9101: {LOOPBACK}"),
        ),
        (
            ("bundle/edge1", "--keys", "nokeys", "--listen", "0.0.0.0:0", "--metrics", "nix"),
            ("nokeys is not a folder: create keys", "--metrics is 'nix'"),
        ),
        (("bundle/edge1", "--keys", "keys/edge0"), ("the keys are of edge0; expected those of edge1",)),
        (
            ("ascon/edge1",),
            ("the link with edge0 is protected with ascon-aead128, which needs keys (--keys)",
             "the link with edge2 is protected"),
        ),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_work(
    worker: Run, inside: Path, args: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    refused(worker(*args), *messages)


def test_a_bundle_with_another_file_is_refused(worker: Run, inside: Path) -> None:
    (inside / "bundle" / "edge1" / "more.bin").touch()
    done = worker("bundle/edge1")
    (inside / "bundle" / "edge1" / "more.bin").unlink()

    refused(done, "edge1/more.bin does not belong to the bundle", "has changed since it was written: copy it again")


def test_a_worker_without_numba_refuses_ascon_and_nothing_else(inside: Path, tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ModuleNotFoundError(\"No module named 'numba'\", name='numba')")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("--listen", "127.0.0.1:0")

    with process(tmp_path, "worker", "ascon/edge1", "--keys", "keys/edge1", *options, env=env) as asked:
        refused(asked.done(), "numba is not installed; it comes with an extra: pip install 'cloven[ascon]'")
    with process(tmp_path, "worker", "bundle/edge1", *options, env=env) as plain:
        plain.until('"ready"')


def test_a_port_that_is_taken_is_said(inside: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        given = ("--listen", taken), ("--listen", "127.0.0.1:0", "--metrics", taken)
        listen, metrics = (Process(tmp_path, "worker", "bundle/edge1", *options).done() for options in given)

    assert (listen.code, metrics.code) == (2, 2)
    assert f"cloven: cannot listen on {taken}: check that this machine has the address" in listen.err
    assert f"cloven: cannot serve metrics on {taken}: " in metrics.err
    assert "address already in use" in metrics.err.lower()
    assert "Traceback" not in listen.err + metrics.err


# --- runs -----------------------------------------------------------------------------------------------------

NOBODY = "".join(f'edge{i} = "127.0.0.1:{i + 1}"\n' for i in range(3))
"""Ports where nobody listens."""


@pytest.fixture
def file(inside: Path, tmp_path: Path) -> Path:
    """Return the path of a cluster file outside the working folder."""
    return tmp_path / "cluster.toml"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (None, ("cannot read",)),
        ("x =", ("cluster.toml is not valid TOML",)),
        ("", ("cluster.toml: devices is missing", "expected [devices] with a line such as")),
        (
            'colour = 1\n[devices]\nedge0 = 3\n',
            ("devices.edge0 is 3; expected", "colour is not a known", "expected [devices] with a line such as"),
        ),
        (
            '[devices]\nedge0 = "127.0.0.1"\nedge1 = "localhost:7001"\nedge5 = "localhost:7001"\n',
            ("the address of edge2 is missing: add edge2 =",
             "edge0 = '127.0.0.1' is not an address", "two devices have the address localhost:7001"),
        ),
        (f'keys = "nokeys"\n[devices]\n{NOBODY}', ("nokeys is not a folder",)),
        (
            f"[devices]\n{NOBODY}",
            ("edge0: cannot be reached (127.0.0.1:1)", "edge1: cannot be reached (127.0.0.1:2)",
             "edge2: cannot be reached (127.0.0.1:3)"),
        ),
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_be_used(
    cloven: Run, file: Path, inside: Path, text: str | None, messages: tuple[str, ...]
) -> None:
    from PIL import Image

    Image.new("L", (28, 28)).save(file.with_name("photo.png"))
    if text is not None:
        file.write_text(text)

    ran = cloven("run", "plan.toml", "--cluster", file, "--input", file.with_name("photo.png"), "--sent", "sent")
    served = cloven("serve", "plan.toml", "--cluster", file, "--listen", "127.0.0.1:0")

    refused(ran, *messages)
    refused(served, *messages)


def test_all_files_of_a_run_are_checked_at_once_and_before_a_model_is_made(
    cloven: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloven.cli.models.graph_of", lambda _: pytest.fail("a model was made"))
    file.write_text("[devices]\nedge0 = 'x:1'")

    done = cloven("run", "plan.toml", "--cluster", file, "--data", "digits", "--sent", "notes.txt")

    refused(
        done,
        "the address of edge1 is missing",
        "the address of edge2 is missing",
        "--sent is notes.txt, which is not a folder",
    )


def test_options_that_require_others(cloven: Run, file: Path) -> None:
    alone = cloven("run", "plan.toml", "--data", "digits", "--window", "3", "--deadline", "9", "--retry",
                   "--patience", "3", "--sent", "sent", "--auxiliary", "photos", "--queries", "5")  # fmt: skip
    half = cloven("run", "plan.toml", "--data", "digits", "--cluster", file, "--patience", "3", "--queries", "5")
    lab = cloven("lab", "plan.toml", "--data", "digits", "--queries", "5")

    names = ("window", "deadline", "retry", "patience", "sent", "auxiliary", "queries")
    refused(alone, *(f"--{name} requires --cluster" for name in names))
    refused(half, "--patience requires --retry",
            "--queries requires --sent and --auxiliary")  # fmt: skip
    refused(lab, "--queries requires --auxiliary")


@pytest.mark.parametrize(
    "options",
    [("--deadline", "nan"), ("--deadline", "inf"), ("--deadline", "0"), ("--window", "257"), ("--limit", "0"),
     ("--patience", "inf")],
)  # fmt: skip
def test_numbers_out_of_range(cloven: Run, file: Path, options: tuple[str, str]) -> None:
    done = cloven("run", "plan.toml", "--cluster", file, "--data", "digits", *options)

    assert done.code == 2
    assert f"Invalid value for '{options[0]}'" in done.err
    assert "Traceback" not in done.err


# --- the service ----------------------------------------------------------------------------------------------


def test_a_service_that_cannot_be(cloven: Run, file: Path) -> None:
    file.write_text(f"[devices]\n{NOBODY}")

    done = cloven(
        "serve", "plan.toml", "--cluster", "nowhere.toml", "--listen", "0.0.0.0:80", "--class-names", "notes.txt"
    )

    refused(
        done,
        f"--listen 0.0.0.0:80: {LOOPBACK}",
        "notes.txt has 1 names; expected 10, one line for each class of the model",
        "cannot read nowhere.toml",
    )
    refused(
        cloven("serve", "plan.toml", "--cluster", file, "--class-names", "nowhere", "--keys", "nokeys"),
        "cannot read nowhere",
        "nokeys is not a folder",
    )


# --- the listener ---------------------------------------------------------------------------------------------


def capture_of_nobody(path: Path) -> Path:
    """Write a pcap file with one UDP packet."""
    packet = bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(20)
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    path.write_bytes(head + struct.pack("<IIII", 1, 0, len(packet), len(packet)) + packet)
    return path


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        ((), ("give either --interface NAME to record, or --read FILE",)),
        (("--interface", "lo", "--read", "x"), ("give either --interface NAME to record, or --read FILE",)),
        (
            ("--interface", "lo", "--source", "10.0.0.1"),
            ("--source requires --read and --out", "--interface requires --out FILE.pcapng"),
        ),
        (
            ("--read", "notes.txt", "--port", "7", "--seconds", "2", "--target", "10.0.0.1"),
            ("--port requires --interface", "--seconds requires --interface", "--target requires --out"),
        ),
        (
            ("--interface", "nix0", "--out", "nowhere/link.pcapng"),
            ("there is no interface 'nix0'; expected one of ", "cannot write nowhere/link.pcapng"),
        ),
        (
            ("--read", "notes.txt", "--numbers", "int8", "--shape", "0=4x4", "--shape", "first"),
            ("--numbers requires --out", "--shape requires --out", "is '0=4x4'; expected", "'first'; expected"),
        ),
        (("--read", "nowhere.pcapng"), ("cannot read nowhere.pcapng: No such file",)),
        (("--read", "notes.txt", "--out", "pairs"), ("notes.txt is neither a pcap nor a pcapng file",)),
    ],
)  # fmt: skip
def test_a_tap_that_cannot_run(cloven: Run, inside: Path, args: tuple[str, ...], messages: tuple[str, ...]) -> None:
    refused(cloven("tap", *args), *messages)


def test_a_capture_without_frames_gives_no_pairs(cloven: Run, inside: Path, tmp_path: Path) -> None:
    there = capture_of_nobody(tmp_path / "udp.pcap")

    refused(cloven("tap", "--read", there, "--out", "pairs"), "udp.pcap does not contain frames of cloven")
    assert cloven("tap", "--read", there).code == 0
    assert json.loads(cloven("tap", "--read", there, "--json").out)["packets"] == 1


# --- the laboratory -------------------------------------------------------------------------------------------


def test_a_laboratory_is_refused_with_all_that_is_wrong_before_a_model_is_made(
    cloven: Run, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloven.cli.models.graph_of", lambda _: pytest.fail("a model was made"))
    monkeypatch.setattr(host, "CAPABILITIES", {"CAP_NET_ADMIN": 63, "CAP_SYS_ADMIN": 62})

    done = cloven("lab", "plan.toml", "--data", "digits", "--tap", "edge0-edge7", "--bandwidth", "fast", "--delay",
                  "long", "--speed", "edge7=2,edge0=slow,edge1=0.5,edge1=1,0.5", "--memory-limit", "edge0=2XB",
                  "--out", ".")  # fmt: skip

    refused(
        done, "--tap: 'edge0-edge7' is not a link; expected two of edge0, edge1, edge2", "the bandwidth is 'fast'",
        "the delay is 'long'", "--speed: 'edge0=slow' is not an entry; expected a device and a number, such as",
        "--speed: edge1 occurs twice", "--speed: '0.5' is not an entry",
        "speed of edge7: the plan has no such device",
        "--memory-limit: 'edge0=2XB' is not an entry; expected a device and a size, such as edge0=200MB",
        "speed of edge7: expected a number above 0, at most 1, got 2",
        "requires root; missing: CAP_NET_ADMIN, CAP_SYS_ADMIN; use sudo",
        ". holds ascon, notes.txt, which is not part of a laboratory",
    )  # fmt: skip


def test_a_laboratory_takes_its_links_from_a_cluster_or_from_options(
    cloven: Run, inside: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = tmp_path_factory.mktemp("cluster") / "cluster.toml"
    cluster.write_text('[devices]\nedge0 = { profile = "nix" }\n')
    lab = ("lab", "plan.toml", "--data", "digits", "--cluster", str(cluster))
    both, wrong = cloven(*lab, "--delay", "1ms", "--queries", "5"), cloven(*lab)

    given_twice = "--delay cannot be given with --cluster, whose profiles contain it"
    refused(both, "--queries requires --auxiliary", given_twice)
    refused(wrong, "there is no device profile 'nix'")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give up being root")
def test_a_laboratory_without_root_says_what_is_missing(inside: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    drop = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-all"]
    command = ["-m", "cloven.cli", "lab", "plan.toml", "--data", "digits", "--delay", "2ms", "--tap", "edge0-edge1"]
    done = subprocess.run([*drop, sys.executable, *command], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert re.fullmatch(
        r"cloven: the lab creates network namespaces, which requires root; missing: CAP_NET_ADMIN, CAP_SYS_ADMIN; "
        r"use sudo\n(cloven: /dev/net/tun does not exist.*\n)?",
        done.stderr,
    )
