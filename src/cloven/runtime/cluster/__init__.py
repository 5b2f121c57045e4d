"""A program on several machines: workers that hold a part each, and the coordinator that feeds them."""

import os

from cloven.runtime.link.identity import only_tls_1_3

# gRPC reads both once, when it is imported. Its core writes lines of its own to standard error, among logs that are
# lines of JSON; what it has to say comes with its errors too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
only_tls_1_3()
