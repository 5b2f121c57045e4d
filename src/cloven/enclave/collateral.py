"""Intel's collateral for the verification of hardware quotes: read from a file, or fetched from a caching service.

Collateral is Intel's signed data about its platforms: the security level (TCB) of each kind of processor, the
identity of its quoting enclave, and the lists of revoked certificates. It is valid for 30 days. A file stores it as
one JSON object, in the form of `dcap_qvl.QuoteCollateralV3`; a provisioning certificate caching service (PCCS)
serves its parts over HTTP. It is neither secret nor trusted: every part is signed, and is checked when a quote is
verified.

The fetcher of the library is not used: it follows redirects and contacts hosts that the service's answer names; its
threads outlive a fetch that times out, and crash when the interpreter exits.
"""

from __future__ import annotations

import json
import re
import socket
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cloven.errors import ClovenError, one_line, require
from cloven.files import parse_json, read_text

if TYPE_CHECKING:
    from dcap_qvl import QuoteCollateralV3

COLLATERAL_BYTES = 2**20
"""The limit on the size of collateral and of each part; Intel's has about 20 kB."""
TCB_CHAIN = "TCB-Info-Issuer-Chain"
QE_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
CRL_CHAIN = "SGX-PCK-CRL-Issuer-Chain"


def read_collateral(path: Path) -> QuoteCollateralV3:
    """Read collateral from a file.

    Raises:
        ClovenError: if the file cannot be read or does not contain collateral.
    """
    return parse_collateral(read_text(path, COLLATERAL_BYTES), str(path))


def parse_collateral(text: str, name: str) -> QuoteCollateralV3:
    """Parse collateral from JSON; `name` is the file's name for error messages.

    Raises:
        ClovenError: if the text is not JSON, or a part is missing.
    """
    try:
        from dcap_qvl import QuoteCollateralV3
    except ImportError as error:
        raise require("attest", error) from error
    parse_json(text, name)
    try:
        return QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise ClovenError(
            f"{name} is not collateral: {error}; fetch it again: cloven enclave release --fetch-collateral URL"
        ) from error


def fetch_collateral(url: str, evidence: bytes, *, timeout: float = 10.0) -> str:
    """Fetch the collateral of the platform that made a quote; return it as JSON for `parse_collateral`.

    Args:
        url: the URL of the PCCS, such as ``https://pccs.example.org``; no other host is contacted.
        evidence: the quote, which need not be verified yet.
        timeout: the limit for each of the four requests, in seconds, even if the service answers slowly.

    Raises:
        ClovenError: if the evidence is not a quote, or the service does not answer with collateral.
    """
    try:
        from dcap_qvl import parse_quote
    except ImportError as error:
        raise require("attest", error) from error
    if not re.match(r"https?://[^/?#]", url):
        raise ClovenError(f"the PCCS is {url!r}; expected a URL such as https://pccs.example.org")
    try:
        quote = parse_quote(evidence)
        tee, fmspc, ca = quote.quote_type().lower(), quote.fmspc(), quote.ca()
    except ValueError as error:
        raise ClovenError(f"the evidence is not an SGX or TDX hardware quote: {error}") from error
    base = url.rstrip("/")
    crl, crl_headers = _get(f"{base}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der", timeout)
    root_crl, _ = _get(f"{base}/sgx/certification/v4/rootcacrl", timeout)
    tcb, tcb_headers = _get(f"{base}/{tee}/certification/v4/tcb?fmspc={fmspc}&update=standard", timeout)
    qe, qe_headers = _get(f"{base}/{tee}/certification/v4/qe/identity?update=standard", timeout)
    tcb_info, tcb_signature = _signed(tcb, "tcbInfo", url)
    qe_identity, qe_signature = _signed(qe, "enclaveIdentity", url)
    return json.dumps(
        {
            "pck_crl_issuer_chain": unquote(crl_headers.get(CRL_CHAIN, "")),
            "root_ca_crl": _der(root_crl).hex(),
            "pck_crl": _der(crl).hex(),
            "tcb_info_issuer_chain": unquote(tcb_headers.get(TCB_CHAIN, tcb_headers.get(f"SGX-{TCB_CHAIN}", ""))),
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": unquote(qe_headers.get(QE_CHAIN, "")),
            "qe_identity": qe_identity,
            "qe_identity_signature": qe_signature,
        },
        indent=2,
    )


def _get(url: str, timeout: float) -> tuple[bytes, HTTPMessage]:
    """Return the complete body and headers of an answer within `timeout` seconds; redirects are not followed."""
    late = Event()

    def give_up(connected: socket.socket) -> None:
        late.set()
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # wakes up blocked reads, also under TLS

    try:
        parts = urlsplit(url)
        make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        with closing(make(parts.hostname or "", parts.port or make.default_port, timeout=timeout)) as connection:
            connection.connect()
            # A socket's own timeout restarts with each byte.
            watch = Timer(timeout, give_up, (connection.sock,))
            watch.start()
            try:
                connection.request("GET", parts._replace(scheme="", netloc="").geturl())
                answer = connection.getresponse()
                body = answer.read(COLLATERAL_BYTES + 1)
            finally:
                watch.cancel()
        if late.is_set():
            raise TimeoutError
        if answer.status != HTTPStatus.OK:
            raise HTTPException(f"HTTP Error {answer.status}")
        if len(body) > COLLATERAL_BYTES:
            raise HTTPException(f"the answer has more than {COLLATERAL_BYTES} bytes")
    except (OSError, HTTPException, ValueError) as error:
        why = f"it did not answer within {timeout:g} s" if late.is_set() else one_line(" ".join(str(error).split()))
        raise ClovenError(f"cannot fetch collateral from {url}: {why}") from error
    return body, answer.headers


def _signed(body: bytes, name: str, url: str) -> tuple[str, str]:
    """Return the text that Intel signed, which contains no white space, and its signature in hexadecimal digits."""
    document = parse_json(body, f"the answer of {url}")
    content, signature = document.get(name), document.get("signature")
    if not isinstance(content, dict) or not isinstance(signature, str):
        raise ClovenError(f"the answer of {url} lacks {name} or its signature; expected a PCCS of version 4")
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False), signature


def _der(body: bytes) -> bytes:
    """Return a revocation list as bytes; services send bytes or hexadecimal digits."""
    try:
        return bytes.fromhex(body.decode("ascii"))
    except ValueError:
        return body
