"""The coordinator of a laboratory, a process in its own namespace.

It reads the plan, the cluster file and the images in the laboratory's folder, and writes the outcome beside them.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.errors import ClovenError
from cloven.files import read_tensors, write_text
from cloven.progress import report_progress
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.lab.lab_folder import CLUSTER, OUTCOME, PAIRS, PIXELS, PLAN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cloven.runtime.cluster.sending import SendOutcome

STOPPED = 130

SEND, WARM_UP = "send", "warm-up"
"""The tasks."""


def main(folder: Path, task: str, options: SendOptions, auxiliary: int) -> int:
    """Do a task; return 2 if the cluster cannot be used, with the reasons on standard error.

    Args:
        folder: the laboratory's folder.
        task: `SEND`; or `WARM_UP`, which sends the first image as often as slow devices need it to measure their
            jobs, and writes nothing.
        options: how to send the images.
        auxiliary: the number of images that are the attacker's.
    """
    from cloven.partition.plan import parse, read
    from cloven.runtime.cluster.sending import coordinator, send
    from cloven.runtime.cluster.slowdown import FIRST

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        pixels = read_tensors(folder / PIXELS, "numpy")[1]["image"]
        run = coordinator(parse(read(folder / PLAN)), folder / CLUSTER, options)
        if task == WARM_UP:
            _check(send(run, pixels[:1].repeat(FIRST, axis=0), lambda *_: None))
        else:
            with report_progress() as progress:
                _write(folder, send(run, pixels, progress), pixels, auxiliary)
    except ClovenError as error:
        for problem in error.problems:
            print(f"cloven: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _check(warm_up: SendOutcome) -> None:
    """Raise ClovenError if an image failed, since the devices would then not have measured all their jobs."""
    failed = dict.fromkeys(failure.reason for failure in warm_up.summary().failed)
    if failed:
        raise ClovenError([f"a device could not measure its jobs: {reason}" for reason in failed])


def _write(folder: Path, outcome: SendOutcome, pixels: NDArray[np.uint8], auxiliary: int) -> None:
    """Write the outcome, and what was sent."""
    from cloven.runtime.cluster.sending import write_answered
    from cloven.runtime.lab.outcome import LabOutcome

    if outcome.answered:
        write_answered(folder / PAIRS, outcome, pixels, auxiliary)
    # All processes share this machine's clock: the offsets between hosts need not be estimated.
    exact = {name: replace(party, offset=0.0, uncertainty=0.0) for name, party in outcome.reports.items()}
    outcome = replace(outcome, reports=exact)
    sent = tuple((source, target, count) for (source, target), count in outcome.sent().items())
    document = LabOutcome(summary=outcome.summary(), sent=sent)
    write_text(folder / OUTCOME, document.text())


if __name__ == "__main__":
    try:
        folder, task, window, deadline, batch, auxiliary = sys.argv[1:]
        sending = SendOptions(int(window), float(deadline), standby=(), batch=int(batch))
        sys.exit(main(Path(folder), task, sending, int(auxiliary)))
    except KeyboardInterrupt:  # the laboratory passes Ctrl-C on
        sys.exit(STOPPED)
