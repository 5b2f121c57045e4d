"""A program on several machines: workers that hold a part each, and the coordinator that feeds them."""

import os

# gRPC's core writes lines of its own to standard error, among logs that are lines of JSON; what it has to say comes
# with its errors too. It reads this once, when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
