"""Listening addresses: their syntax, and those that are refused without mTLS."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.runtime.link.address import check_address

NAMES = {
    "here.example": ["127.0.0.1", "::1"],
    "there.example": ["192.0.2.7"],
    "both.example": ["127.0.0.1", "192.0.2.7"],
}
ANYONE = object()


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the resolver by one that knows three names but not localhost, which must not be looked up."""
    real = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> list[Any]:
        if host.replace(".", "").isdigit() or ":" in host:
            return real(host, *rest, **more)
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in NAMES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("listen", "read"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("127.9.8.7:0", ("127.9.8.7", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:80", ("localhost", 80)),
        ("LocalHost:80", ("LocalHost", 80)),
        ("here.example:1", ("here.example", 1)),
    ],
)
def test_this_machine_needs_nothing(listen: str, read: tuple[str, int]) -> None:
    assert check_address(listen, None, insecure=False) == read


OUTSIDE = [
    "0.0.0.0:7001",
    "[::]:7001",
    "192.0.2.7:7001",
    "[2001:db8::1]:7001",
    "there.example:7001",
    "both.example:7001",
]


@pytest.mark.parametrize("listen", OUTSIDE)
def test_other_addresses_need_mtls_or_insecure(listen: str) -> None:
    with pytest.raises(ClovenError) as caught:
        check_address(listen, None, insecure=False)

    for said in (listen, "without mTLS", "--keys", "127.0.0.1:7001", "--insecure"):
        assert said in str(caught.value)
    host = listen.rpartition(":")[0].strip("[]")
    assert (
        check_address(listen, ANYONE, insecure=False) == check_address(listen, None, insecure=True) == (host, 7001)
    )


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8000",
        ":8000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:8000",
        "[::1]",
        "[127.0.0.1]:80",
        "[here.example]:80",
        "http://127.0.0.1:8000",
        "127.0.0.1:80 ",
        "127.0.0.1:80/",
        "127.0.0.1:٣",
    ],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_what_is_no_address_is_said(listen: str, insecure: bool) -> None:
    with pytest.raises(ClovenError, match=r"--metrics is .*; expected HOST:PORT such as 127\.0\.0\.1:8000"):
        check_address(listen, None, insecure, option="--metrics")


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(ClovenError, match=r"the host 'nowhere\.example' cannot be resolved"):
        check_address("nowhere.example:80", None, insecure=False)


@given(st.text(max_size=30), st.integers(0, 99999))
def test_any_text_is_read_or_refused(host: str, port: int) -> None:
    try:
        read = check_address(f"{host}:{port}", ANYONE, insecure=False)
    except ClovenError:
        return
    assert read == (host.strip("[]"), port)
