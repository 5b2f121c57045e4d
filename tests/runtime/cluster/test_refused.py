"""Bundles, keys and settings that do not fit together are reported before an image is sent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.cluster.worker import load
from cloven.runtime.link import authority
from cloven.runtime.link.identity import read
from cloven.runtime.link.keys import LINK_KEY
from tests.runtime.cluster.machines import Machine, cluster, coordinator, machines, with_keys, within
from tests.runtime.cluster.plans import bundled, keys, plan_of

PLAIN = bundled("lenet5", "vertical")
SEALED = bundled("lenet5", "vertical", "aes-128-gcm")
MUTUAL = bundled("lenet5", "vertical", "mtls")


def refused(bundle: Path, file: Path) -> list[str]:
    """Return the reasons why a run with workers does not begin."""

    async def run() -> None:
        async with coordinator(plan_of(bundle), file):
            raise AssertionError("the run began")

    with pytest.raises(ClovenError) as caught:
        within(60, run())
    return list(caught.value.problems)


def does_not_start(folder: Path, *options: object) -> str:
    """Return the message of a worker that exits at once with code 2 and without a traceback."""
    command = [sys.executable, "-m", "cloven.cli", "worker", folder, "--listen", "127.0.0.1:0", *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert lines
    assert all(line.startswith("cloven: ") for line in lines), done.stderr
    return "\n".join(lines)


# --- errors at the start of a worker ----------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """Return a copy of the keys, to be damaged."""
    return Path(shutil.copytree(keys(), folder / "keys"))


def test_keys_of_another_device(tmp_path: Path) -> None:
    said = does_not_start(SEALED / "edge1", "--keys", keys() / "edge0")

    assert "the keys are of edge0; expected those of edge1" in said


def test_a_key_of_a_link_is_missing(tmp_path: Path) -> None:
    mine = copied(tmp_path)
    (mine / "edge1" / "links" / "edge0.key").unlink()

    assert "edge1 has no key for its link with edge0" in cannot_load(SEALED / "edge1", mine / "edge1")


def cannot_load(folder: Path, keys: Path | None = None) -> str:
    with pytest.raises(ClovenError) as caught:
        load(folder, read(keys) if keys is not None else None)
    return str(caught.value)


def test_no_keys_at_all() -> None:
    assert cannot_load(SEALED / "edge0").splitlines() == [
        f"the link with {party} is protected with aes-128-gcm, which needs keys (--keys)"
        for party in ("coordinator", "edge1")
    ]
    assert "the link edge0-edge1 is protected with mtls, which requires --keys" in cannot_load(MUTUAL / "edge0")


def test_mtls_cannot_be_turned_off_where_the_plan_protects_links_with_it() -> None:
    said = does_not_start(MUTUAL / "edge0", "--keys", keys() / "edge0", "--insecure")

    assert "the plan protects coordinator-edge0, edge0-edge1 with mtls, which --insecure turns off" in said


def test_an_expired_certificate(tmp_path: Path) -> None:
    authority.new(["edge0"], tmp_path / "old", days=1, now=datetime.now(UTC) - timedelta(days=3))

    assert "certificate.pem expired on" in does_not_start(MUTUAL / "edge0", "--keys", tmp_path / "old" / "edge0")


def test_a_bundle_that_was_changed(tmp_path: Path) -> None:
    mine = Path(shutil.copytree(PLAIN, tmp_path / "bundle"))
    (mine / "edge0" / "weights.bin").write_bytes(b"others")
    (mine / "other").mkdir()

    assert "edge0/weights.bin differs" in cannot_load(mine / "edge0")
    assert "is not a bundle: manifest.json is missing" in cannot_load(mine.parent)
    assert "is not a device's folder of the bundle; expected one of" in cannot_load(mine / "other")


# --- errors of the coordinator ----------------------------------------------------------------------------------


def test_bundles_that_do_not_belong_together(tmp_path: Path) -> None:
    """Bundles of another plan or another time are reported at once, with the devices' addresses."""
    again = Path(shutil.copytree(PLAIN, tmp_path / "again"))
    (again / "manifest.json").write_text((again / "manifest.json").read_text() + "\n")
    others = {"edge1": bundled("lenet5", "hybrid"), "edge2": again}
    with machines(PLAIN, tmp_path, others=others) as made:
        problems = refused(PLAIN, cluster(tmp_path, made))

    assert problems == [
        f"edge1 ({made['edge1'].address}) has the bundle of another plan (lenet5): write it again with "
        "`cloven bundle`",
        f"edge2 ({made['edge2'].address}) and edge0 have bundles that were not written together: copy one bundle "
        "to all",
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(PLAIN, tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(MUTUAL, tmp_path_factory.mktemp("mutual"), with_keys(keys())) as made:
        yield made


def swapped(made: dict[str, Machine]) -> dict[str, Machine]:
    return made | {"edge0": made["edge1"], "edge1": made["edge0"]}


def test_addresses_of_other_workers(plain: dict[str, Machine], mutual: dict[str, Machine], tmp_path: Path) -> None:
    """Over TLS, the coordinator does not talk to a worker with the certificate of another device."""
    for problem in refused(PLAIN, cluster(tmp_path, swapped(plain)))[:2]:
        assert "is the worker of edge" in problem
        assert "correct the cluster file" in problem
    problems = refused(MUTUAL, cluster(tmp_path, swapped(mutual), keys()))
    assert len(problems) == 2
    assert all("it has another party's certificate" in problem for problem in problems)


def test_mtls_on_one_side_only(plain: dict[str, Machine], mutual: dict[str, Machine], tmp_path: Path) -> None:
    for problem in refused(PLAIN, cluster(tmp_path, plain, keys())):
        assert "answers without mTLS: start it with --keys, or leave the keys out here" in problem
    for problem in refused(MUTUAL, cluster(tmp_path, mutual)):
        assert "it closed the connection at once; if it uses mTLS, it requires a valid certificate" in problem


def test_a_coordinator_of_another_authority(mutual: dict[str, Machine], tmp_path: Path) -> None:
    authority.new(["edge0"], tmp_path / "other")

    for problem in refused(MUTUAL, cluster(tmp_path, mutual, tmp_path / "other")):
        assert "its certificate is of another authority" in problem


def test_an_expired_coordinator(mutual: dict[str, Machine], tmp_path: Path) -> None:
    authority.new(["edge0"], tmp_path / "old", days=1, now=datetime.now(UTC) - timedelta(days=3))

    with pytest.raises(ClovenError, match=r"certificate\.pem expired on"):
        coordinator(plan_of(MUTUAL), cluster(tmp_path, mutual, tmp_path / "old"))


def test_a_plan_with_mtls_and_a_cluster_file_without(plain: dict[str, Machine], tmp_path: Path) -> None:
    """The coordinator refuses even if the workers accept: one claims to have the plan."""
    made = coordinator(plan_of(MUTUAL), cluster(tmp_path, plain))

    with pytest.raises(ClovenError, match="the link with edge0 is protected with mtls: set keys in the cluster"):
        made.pool._link_with("edge0", 1)


def test_a_worker_of_another_authority_or_without_mtls(tmp_path: Path) -> None:
    """One wrong worker among right ones is named."""
    authority.new(["edge0", "edge1", "edge2"], tmp_path / "other")
    options = {
        "edge0": with_keys(keys()),
        "edge1": with_keys(tmp_path / "other"),
        "edge2": with_keys(keys(), "--insecure"),
    }
    with machines(SEALED, tmp_path, lambda name: options[name](name)) as made:
        first, second = refused(SEALED, cluster(tmp_path, made, keys()))

    assert first.startswith("edge1: its certificate is of another authority")
    assert second.startswith("edge2: answers without mTLS")


def test_link_keys_that_differ(tmp_path: Path) -> None:
    """The key of two devices or of the coordinator and a device differs, or the coordinator has no key."""
    mine = copied(tmp_path)
    changed = mine / "edge0" / "links" / "edge1.key"
    changed.unlink()
    LINK_KEY.new(changed)
    with machines(SEALED, tmp_path, with_keys(mine, "--insecure")) as made:
        file = cluster(tmp_path, made, mine, insecure=True)
        (between,) = refused(SEALED, file)
        shutil.copy(keys() / "coordinator" / "links" / "edge1.key", mine / "coordinator" / "links" / "edge0.key")
        shutil.copy(keys() / "edge0" / "links" / "edge1.key", changed)
        (outer,) = refused(SEALED, file)
        (mine / "coordinator" / "links" / "edge0.key").unlink()
        (missing,) = refused(SEALED, file)
        unkeyed = refused(SEALED, cluster(tmp_path, made))
        counted = made["edge1"].count("cloven_refused_total", party="edge0", reason="handshake")

    assert between.startswith(
        "edge0: no link with edge1: handshake refused: the other device uses another link key"
    )
    assert outer.startswith("coordinator - edge0: handshake refused: the other device uses another link key")
    assert "coordinator has no key for its link with edge0" in missing
    assert unkeyed == [
        f"the link with {device} is protected with aes-128-gcm, which needs keys (--keys)"
        for device in ("edge0", "edge2")
    ]
    assert counted >= 1
