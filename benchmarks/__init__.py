"""Measurements that the README quotes; each module is a script."""

import cloven.runtime.cluster  # noqa: F401 - before any module here imports gRPC, which is then kept from TLS 1.2
