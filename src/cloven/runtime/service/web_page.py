"""The page to try the service in a browser: one file without external resources."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from cloven.runtime.cluster.health import DeviceHealth
from cloven.runtime.service.contract import Shape

POLICY = Template(
    "default-src 'none'; style-src 'nonce-$nonce'; script-src 'nonce-$nonce'; img-src blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def page(title: str, names: Sequence[str] | None, shape: Shape, devices: Iterable[DeviceHealth]) -> tuple[str, str]:
    """Return the page, and the Content-Security-Policy that it must be sent with."""
    nonce = secrets.token_urlsafe()
    channels, height, width = shape
    text = Template(files(__package__).joinpath("page.html").read_text("utf-8")).substitute(
        nonce=nonce,
        title=escape(title),
        made=f"{height} &times; {width} pixels, {'grey' if channels == 1 else 'colour'}",
        devices="\n".join(map(_device, devices)),
        classes=_classes(names),
    )
    return text, POLICY.substitute(nonce=nonce)


def _device(found: DeviceHealth) -> str:
    cells = map(escape, (found.device, found.state, found.reason))
    return "<tr><th scope=row>{}</th><td>{}</td><td>{}</td></tr>".format(*cells)


def _classes(names: Sequence[str] | None) -> str:
    if not names:
        return "<p>The classes have no names here; the answers show their numbers.</p>"
    listed = "".join(f"<li>{escape(name)}</li>" for name in names)
    return f"<details><summary>{len(names)} classes</summary><ol start=0>{listed}</ol></details>"
