"""Collateral from a file, and from a caching service that is honest, broken or hostile."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloven.enclave.collateral import COLLATERAL_BYTES, fetch_collateral, parse_collateral, read_collateral
from cloven.enclave.dcap import verifier
from cloven.errors import ClovenError
from tests.enclave.pccs import Answers, answers, serving, signed

DATA = Path(__file__).with_name("data")
TDX_QUOTE = (DATA / "tdx_quote").read_bytes()
DOCUMENT = json.loads((DATA / "tdx_quote_collateral.json").read_text())


def test_collateral_is_fetched_and_verifies_the_quote() -> None:
    with serving(answers(DOCUMENT)) as (url, paths):
        text = fetch_collateral(f"{url}/", TDX_QUOTE)

    assert json.loads(text) == DOCUMENT
    assert paths == [
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
        "/tdx/certification/v4/tcb?fmspc=B0C06F000000&update=standard",
        "/tdx/certification/v4/qe/identity?update=standard",
    ]
    verify = verifier(parse_collateral(text, url), now=datetime(2025, 6, 20, tzinfo=UTC))
    assert verify(TDX_QUOTE).status == "UpToDate"


def without(part: str) -> Callable[[Answers], object]:
    return lambda known: known.pop(part)


def other(part: str, status: int, headers: dict[str, str], body: bytes) -> Callable[[Answers], object]:
    return lambda known: known.update({part: (status, headers, body)})


BROKEN: dict[str, tuple[Callable[[Answers], object], str]] = {
    "no root CRL": (without("rootcacrl"), "cannot fetch collateral from .*/rootcacrl: HTTP Error 404"),
    "no TCB": (without("tcb"), "HTTP Error 404"),
    "not JSON": (other("tcb", 200, {}, b"<html>"), "is not valid JSON"),
    "deep JSON": (other("tcb", 200, {}, b'{"a":' * 10**5), "(not valid JSON|nested too deep)"),
    "other JSON": (other("tcb", 200, {}, b"{}"), "lacks tcbInfo or its signature; expected a PCCS of version 4"),
    "huge": (
        other("identity", 200, {}, b" " * (COLLATERAL_BYTES + 1)),
        f"the answer has more than {COLLATERAL_BYTES} bytes",
    ),
    "elsewhere": (other("pckcrl", 302, {"Location": "http://127.0.0.1:1/x"}, b""), "HTTP Error 302"),
    "a file": (other("pckcrl", 302, {"Location": "file:///etc/passwd"}, b""), "HTTP Error 302"),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN)
def test_a_service_that_does_not_answer_so_is_named(change: Callable[[Answers], object], said: str) -> None:
    broken = answers(DOCUMENT)
    change(broken)
    with serving(broken) as (url, _), pytest.raises(ClovenError, match=said):
        fetch_collateral(url, TDX_QUOTE)


def test_a_hostile_service_can_only_make_the_quote_be_refused() -> None:
    hostile = answers(DOCUMENT)
    weaker = DOCUMENT["tcb_info"].replace("OutOfDate", "UpToDate")
    hostile["tcb"] = (200, hostile["tcb"][1], signed("tcbInfo", weaker, DOCUMENT["tcb_info_signature"]))
    with serving(hostile) as (url, _):
        collateral = parse_collateral(fetch_collateral(url, TDX_QUOTE), url)

    with pytest.raises(ClovenError, match="Signature is invalid for tcb_info"):
        verifier(collateral, now=datetime(2025, 6, 20, tzinfo=UTC))(TDX_QUOTE)


def no_end_of_a_line(connection: socket.socket) -> None:
    connection.sendall(b"H")


def no_end_of_heads(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def no_end_of_a_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n")


@pytest.mark.parametrize("drip", [no_end_of_a_line, no_end_of_heads, no_end_of_a_body])
def test_a_service_that_always_sends_a_little_more_is_left_in_time(drip: Callable[[socket.socket], None]) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            while True:
                drip(connection)
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        start = time.monotonic()
        with pytest.raises(ClovenError, match=r"/pckcrl.*: it did not answer within 0\.3 s"):
            fetch_collateral(f"http://127.0.0.1:{listener.getsockname()[1]}", TDX_QUOTE, timeout=0.3)
        assert time.monotonic() - start < 5
        server.join(10)
    assert not server.is_alive()


def test_what_a_service_answers_is_shown_short_and_without_control_characters() -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"\x1b[31mreleased." * 1000 + b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(ClovenError, match="cannot fetch collateral") as raised:
            fetch_collateral(f"http://127.0.0.1:{listener.getsockname()[1]}", TDX_QUOTE)
        server.join(10)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x", "pccs.example.org", "", "//x", "http://", "https:///x"]
)
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(ClovenError, match="expected a URL such as https"):
        fetch_collateral(url, TDX_QUOTE)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "http://127.0.0.1:99999", "http://a..b"])
def test_a_service_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(ClovenError, match=r"cannot fetch collateral|expected a URL"):
        fetch_collateral(url, TDX_QUOTE)


@pytest.mark.parametrize("evidence", [b"", b"x", bytes(5000)])
def test_nobody_is_asked_about_what_is_not_a_quote(evidence: bytes) -> None:
    with serving(answers(DOCUMENT)) as (url, paths), pytest.raises(ClovenError, match="not an SGX or TDX"):
        fetch_collateral(url, evidence)

    assert paths == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "is not collateral: .*missing field"),
        ('{"pck_crl": "zz"}', "is not collateral"),
        ("[" * 10**5, "(not valid JSON|nested too deep)"),
        (" " * (COLLATERAL_BYTES + 1), "more than"),
    ],
)
def test_a_file_that_is_not_collateral_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ClovenError, match=said):
        read_collateral(tmp_path / "c.json")
