"""The coordinator of a laboratory, a process in its own namespace.

It reads the plan, the cluster file and the images in the laboratory's folder, and writes the outcome beside them.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from cloven.errors import ClovenError
from cloven.files import read_tensors, write_text
from cloven.progress import report_progress
from cloven.runtime.lab.lab_folder import CLUSTER, OUTCOME, PAIRS, PIXELS, PLAN

STOPPED = 130


def main(folder: Path, window: int, deadline: float, auxiliary: int) -> int:
    """Send the images; return 2 if the cluster cannot be used, with the reasons on standard error."""
    from cloven.partition.plan import parse, read
    from cloven.runtime.cluster.coordinator import SendOptions
    from cloven.runtime.cluster.sending import coordinator, send, write_sent
    from cloven.runtime.lab.outcome import LabOutcome

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        pixels = read_tensors(folder / PIXELS, "numpy")[1]["image"]
        run = coordinator(parse(read(folder / PLAN)), folder / CLUSTER, SendOptions(window, deadline))
        with report_progress() as progress:
            outcome = send(run, pixels, progress)
        if outcome.answered:
            write_sent(folder / PAIRS, outcome, pixels, auxiliary)
    except ClovenError as error:
        for problem in error.problems:
            print(f"cloven: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    # All processes share this machine's clock: the offsets between hosts need not be estimated.
    exact = {name: replace(party, offset=0.0, uncertainty=0.0) for name, party in outcome.reports.items()}
    outcome = replace(outcome, reports=exact)
    sent = tuple((source, target, count) for (source, target), count in outcome.sent().items())
    document = LabOutcome(summary=outcome.summary(), sent=sent)
    write_text(folder / OUTCOME, document.text())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
    except KeyboardInterrupt:  # the laboratory passes Ctrl-C on
        sys.exit(STOPPED)
