"""All parts of a bundle as tasks, any of which the worker can compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cloven.partition.protection import COORDINATOR
from cloven.runtime.bundle.task_graph import TaskGraph
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.protocol import WorkerDescription
from cloven.runtime.link.ciphers import warm

if TYPE_CHECKING:
    from cloven.runtime.bundle.engine import Array
    from cloven.runtime.bundle.schedule import Job
    from cloven.runtime.cluster.loaded_part import LoadedPart
    from cloven.runtime.link.identity import Identity


@dataclass(frozen=True, eq=False)
class LoadedTasks:
    """The tasks of a bundle, and its parts by device, which have the models."""

    graph: TaskGraph
    parts: Mapping[str, LoadedPart]

    def engine(self, job: Job, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """Run the segment of a task."""
        device, _, segment = job.segment.rpartition("/")
        return self.parts[device].engine(replace(job, segment=segment), inputs)

    def link(self, run: str, worker: str, identity: Identity | None) -> LinkSpec:
        """Return the link of a worker with the coordinator, the only one in a run of tasks.

        Raises:
            ClovenError: if the plan protects its links differently, or the key is missing.
        """
        protection = next(iter(self.parts.values())).manifest.protection.of_all()
        key = partial(frame_stream.link_key, identity, COORDINATOR, protection)
        link = LinkSpec(run, COORDINATOR, worker, protection, key, frame_stream.limits(self.graph.largest()))
        if link.cipher is not None:
            link.key()
            warm(link.cipher)
        return link

    def description(self, worker: str, part: WorkerDescription) -> WorkerDescription:
        """Return the description of a worker that computes tasks, given that of a part."""
        return part.model_copy(
            update={
                "device": worker,
                "largest": self.graph.largest(),
                "parties": [COORDINATOR],
                "source": True,
                "sink": True,
                "tasks": self.graph.model_dump_json(),
            }
        )
