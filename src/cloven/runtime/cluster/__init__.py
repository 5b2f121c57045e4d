"""Run a program on several machines: each worker runs one part, the coordinator sends the images."""

import os

from cloven.runtime.link.identity import only_tls_1_3

# gRPC reads both settings once, when it is imported. Its core would write plain text to standard error, between the
# JSON lines of our logs; its errors contain the same information.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
only_tls_1_3()
