from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.lab import host
from tests.runtime.lab.programs import root

CHECK = (
    "from cloven.runtime.lab.host import check\ntry: check(rate=True, relay=True)\nexcept ValueError as e: print(e)"
)


@root
def test_this_machine_has_what_it_needs() -> None:
    host.check(rate=True, relay=True)


@root
def test_without_rights_it_says_what_is_missing() -> None:
    less = ["setpriv", "--inh-caps", "-net_admin,-sys_admin", "--bounding-set", "-net_admin,-sys_admin"]

    said = subprocess.run([*less, sys.executable, "-c", CHECK], capture_output=True, text=True, check=True).stdout

    assert said.count("\n") == 1
    assert "requires root; missing: CAP_NET_ADMIN, CAP_SYS_ADMIN; use sudo" in said


def test_every_problem_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "TUN", tmp_path / "tun")
    monkeypatch.setattr(host, "_rights", lambda: ["no rights"])

    with pytest.raises(ClovenError) as refused:
        host.check(rate=True, relay=True)

    assert refused.value.problems == (
        "no rights",
        "ip is not found; install iproute2",
        "tc is not found; install iproute2",
        "nsenter is not found; install util-linux",
        "unshare is not found; install util-linux",
        f"{tmp_path / 'tun'} does not exist, but a delay or a loss requires it; load the module: modprobe tun",
    )


def test_a_kernel_without_namespaces_or_without_tbf_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_rights", list)
    monkeypatch.setattr(host, "_tools", list)
    monkeypatch.setattr(host, "_answer", lambda argv: "Unknown qdisc" if "tc" in argv else None)
    with pytest.raises(ClovenError, match=r"a bandwidth requires the kernel's tbf .module sch_tbf.: Unknown qdisc"):
        host.check(rate=True, relay=False)
    host.check(rate=False, relay=False)

    monkeypatch.setattr(host, "_answer", lambda argv: "Operation not permitted")
    with pytest.raises(ClovenError, match=r"network namespaces, perhaps .* container: Operation not permitted"):
        host.check(rate=True, relay=False)


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")

    with pytest.raises(ClovenError, match=r"requires Linux network namespaces; this system is darwin"):
        host.check(rate=False, relay=False)


@root
def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(ClovenError, match=r"ip link show nosuch failed: .*does not exist"):
        host.run(["ip", "link", "show", "nosuch"])
