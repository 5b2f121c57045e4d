"""The coordinator of a laboratory, as a process in its own namespace.

The folder holds the plan, the cluster file and ``pixels.safetensors``; what came of the images is written beside.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from cloven.errors import ClovenError

PLAN, CLUSTER, PIXELS, OUTCOME, PAIRS = "plan.toml", "cluster.toml", "pixels.safetensors", "outcome.json", "pairs"


def main(folder: Path, window: int, deadline: float, auxiliary: int) -> int:
    """Send the images; 2 where the cluster cannot be used, with the reasons on standard error."""
    from safetensors.numpy import load_file

    from cloven import console
    from cloven.partition.plan import parse, read
    from cloven.runtime.cluster.coordinator import Manner
    from cloven.runtime.cluster.sending import send, write_sent

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        pixels = load_file(folder / PIXELS)["image"]
        with console.progress() as progress:
            outcome = send(parse(read(folder / PLAN)), folder / CLUSTER, pixels, Manner(window, deadline), progress)
        if outcome.answered:
            write_sent(folder / PAIRS, outcome, pixels, auxiliary)
    except ClovenError as error:
        for problem in error.problems:
            print(f"cloven: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    between = [[*link, count] for link, count in outcome.sent().items()]
    (folder / OUTCOME).write_text(json.dumps(outcome.row() | {"sent": between}), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
