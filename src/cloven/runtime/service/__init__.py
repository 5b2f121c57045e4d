"""The divided model as a service over HTTP: pictures in, classes out (S1, Sect. 1: "inference as a service").

    POST /classify       a picture, or the numbers of one    -> its class, and the five that fit best
    GET  /               a page to try it in a browser
    GET  /health         200 while every device is ready, else 503
    GET  /metrics        for Prometheus
    GET  /openapi.json   all of this for programs

Every error is ``{"error": sentence}``. What is too much, too large or too slow is refused early (see `Limits`), and
pictures are decoded one at a time, the smallest first, so that memory is bounded and large ones delay few others.
"""

from __future__ import annotations

from cloven.errors import require

try:
    import fastapi  # noqa: F401 - said here once for all modules of the package
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise require("serve", error) from error

from cloven.runtime.service.api import app
from cloven.runtime.service.connections import ClientLimits
from cloven.runtime.service.contract import ModelOutput, ServedModel
from cloven.runtime.service.server import serve

__all__ = ["ClientLimits", "ModelOutput", "ServedModel", "app", "serve"]
