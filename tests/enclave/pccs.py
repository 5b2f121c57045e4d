"""A collateral caching service (PCCS) on this machine, with answers that a test sets."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

Answers = dict[str, tuple[int, dict[str, str], bytes]]
"""Status, headers and body by the last part of a path."""


def signed(name: str, text: str, signature: str) -> bytes:
    return f'{{"{name}":{text},"signature":"{signature}"}}'.encode()


def answers(document: Mapping[str, str]) -> Answers:
    """Return the answers of a PCCS that serves the collateral of a file."""
    chains = {name: quote(document[name]) for name in document if name.endswith("_chain")}
    return {
        "pckcrl": (
            200,
            {"SGX-PCK-CRL-Issuer-Chain": chains["pck_crl_issuer_chain"]},
            bytes.fromhex(document["pck_crl"]),
        ),
        "rootcacrl": (200, {}, document["root_ca_crl"].encode()),
        "tcb": (
            200,
            {"TCB-Info-Issuer-Chain": chains["tcb_info_issuer_chain"]},
            signed("tcbInfo", document["tcb_info"], document["tcb_info_signature"]),
        ),
        "identity": (
            200,
            {"SGX-Enclave-Identity-Issuer-Chain": chains["qe_identity_issuer_chain"]},
            signed("enclaveIdentity", document["qe_identity"], document["qe_identity_signature"]),
        ),
    }


@contextmanager
def serving(known: Answers) -> Iterator[tuple[str, list[str]]]:
    """Yield a service's URL, and the list of the requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            status, headers, body = known.get(self.path.split("?")[0].rsplit("/", 1)[-1], (404, {}, b""))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()
            thread.join(10)
