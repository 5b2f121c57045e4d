"""Listening addresses ``HOST:PORT``, and the check that only authorised clients can use them."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address

from cloven.errors import ClovenError

TEXT = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")
PORTS = range(2**16)


def check_address(
    listen: str, identity: object | None, insecure: bool, *, option: str = "--listen", keys: bool = True
) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, if it is safe to listen there; an IPv6 host without its brackets.

    An address is safe if only this machine can reach it or if clients need a certificate; else ``insecure`` must be
    set.

    Args:
        listen: the address; port 0 is any free port.
        identity: the certificates for mTLS; None for no mTLS.
        insecure: whether the user accepts that anyone who reaches the address can use it.
        option: the command-line option of the address, for messages.
        keys: whether the command has --keys, for messages.

    Raises:
        ClovenError: if it is not an address, its host is unknown, or others could reach it without mTLS.
    """
    found = TEXT.fullmatch(listen)
    if not found or int(found["port"]) not in PORTS or (found["six"] and not _is_six(found["six"])):
        raise ClovenError(
            f"{option} is {listen!r}; expected HOST:PORT such as 127.0.0.1:8000, [::1]:8000 for IPv6, "
            f"with a port of 0 (any free one) to {PORTS[-1]}"
        )
    host, port = found["six"] or found["host"], int(found["port"])
    if identity is None and not insecure and not is_loopback(host, option=option):
        own = "give --keys with this party's folder of keys, " if keys else ""
        raise ClovenError(
            f"{option} {listen}: other machines can reach this address, and without mTLS they can use it and read "
            f"all data; {own}listen on 127.0.0.1:{port} (this machine only), or add --insecure if everyone on that "
            "network is trusted"
        )
    return host, port


def is_loopback(host: str, *, option: str = "--listen") -> bool:
    """Return whether a host is reachable from this machine only: all addresses of its name are loopback addresses.

    Raises:
        ClovenError: if the name cannot be resolved.
    """
    if host.lower() == "localhost":
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ClovenError(
            f"{option}: the host {host!r} cannot be resolved; give an address of this machine, such as 127.0.0.1"
        ) from error
    return all(ip_address(address[0]).is_loopback for *_, address in found)


def _is_six(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False
