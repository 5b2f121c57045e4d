"""A divided model as an HTTP service that classifies pictures.

Mehrafrooz et al. (2025), section 1, call this "inference as a service".

    POST /classify       a picture, or its raw numbers -> its class, and the five most probable classes
    GET  /model          the shape of the model's images
    GET  /               a page to try the service in a browser
    GET  /health         200 while every device is ready, else 503
    GET  /metrics        metrics for Prometheus
    GET  /openapi.json   the description of this interface

With `Slots`, one user at a time is served, who has reserved the service: POST, GET and DELETE /slot.

Every error is ``{"error": sentence}``. Requests that are too many, too large or too slow are refused early (see
`ClientLimits`). Pictures are decoded one at a time, the smallest first: this bounds the memory, and large pictures
delay few others.
"""

from __future__ import annotations

from cloven.errors import require

try:
    import fastapi  # noqa: F401 - checked once for all modules of the package
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise require("serve", error) from error

from cloven.runtime.service.api import app
from cloven.runtime.service.connections import ClientLimits
from cloven.runtime.service.contract import ModelOutput, ServedModel
from cloven.runtime.service.server import serve
from cloven.runtime.service.slots import Slots

__all__ = ["ClientLimits", "ModelOutput", "ServedModel", "Slots", "app", "serve"]
