"""Compute cells on a Ray cluster, which schedules them and runs those of a lost node again.

A node needs the same versions of packages as the driver, but no files. The driver puts the model, the images and
the features of a group into Ray's object store once, by the hash of their content. A node receives what its cells
read once, and checks it. Results travel back to the driver.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from cloven.auditing.cell import Cell
from cloven.auditing.classifier import WholeModel
from cloven.auditing.executor import BEGUN, TOGETHER, CellGroup, EndedCells, Submit, Unfinished, compute
from cloven.auditing.features import Shelf
from cloven.auditing.material import Material
from cloven.auditing.memory_limit import Capacity
from cloven.errors import ClovenError, one_line, require
from cloven.graph.graph import Graph
from cloven.rows import StoredRows, TensorRows, all_rows

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger("cloven")

RETRIES = 3
"""The number of times that a unit is run again after its node or its process was lost."""

ALIKE = ("cloven", "torch", "numpy")
"""The packages of which every node needs the driver's version."""

# --- what the nodes receive -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SharedArray:
    """An array in Ray's object store, and the SHA-256 of its bytes."""

    reference: ObjectRef[NDArray[Any]]
    digest: str

    @cached_property
    def received(self) -> NDArray[Any]:
        """The array on this node, which cannot be changed.

        Raises:
            ClovenError: if it is not the one that the driver has stored.
        """
        import ray

        array: NDArray[Any] = ray.get(self.reference)
        if _digest(array) != self.digest:
            raise ClovenError("data from the object store does not match its digest; run the study again")
        return array

    def __reduce__(self) -> tuple[type[SharedArray], tuple[ObjectRef[NDArray[Any]], str]]:
        return SharedArray, (self.reference, self.digest)


@dataclass(frozen=True, eq=False)
class SharedTensors(Mapping[str, TensorRows]):
    """Tensors in the object store, each of which a node receives when it is read.

    ``arrays`` has the array of each, and whether it lies as ``(n, H, W, C)``.
    """

    arrays: Mapping[str, tuple[SharedArray, bool]]

    def __getitem__(self, name: str) -> TensorRows:
        shared, last = self.arrays[name]
        array = shared.received
        if array.dtype == np.uint8:
            return StoredRows(array, last)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the array cannot be changed
            tensor = torch.from_numpy(array)
        return tensor.movedim(-1, 1) if last else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ALIKE}


SharedGroup: TypeAlias = "ObjectRef[tuple[CellGroup, dict[str, str]]]"
"""A group in the object store, with the versions of the driver's packages."""


# --- the driver -------------------------------------------------------------------------------------------------


@contextmanager
def ray_cluster(address: str, gpus: float = 0.0) -> Iterator[RayCluster]:
    """Yield an executor on a Ray cluster.

    Args:
        address: ``ray://HOST:PORT``; or ``ray`` for the cluster that runs on this machine or that ``RAY_ADDRESS``
            names, or else for a new one with the cores of this machine.
        gpus: the part of a GPU that each cell takes.

    Raises:
        ClovenError: if Ray is not installed, if the cluster cannot be reached, or if it has no GPU for a cell.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise require("ray", error) from error
    try:
        _connect(ray, address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ClovenError(
            f"--on {address}: cannot connect: {one_line(str(cause))}; expected a cluster of this version of Ray "
            f"({ray.__version__}), which `ray start --head` starts"
        ) from error
    try:
        found = ray.cluster_resources().get("GPU", 0)
        if found < gpus:
            raise ClovenError(f"--gpus-per-cell is {gpus:g}; the cluster has {found:g} GPUs: add a node with a GPU")
        yield RayCluster(ray, gpus)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise ClovenError(
            f"the connection to the cluster was lost: {one_line(str(error))}; finished work is kept: run the same "
            "command again"
        ) from error
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "ray":
        ray.init(address, **quiet)
        return
    try:
        ray.init("auto", **quiet)
    except ConnectionError as error:
        if "Could not find any running Ray instance" not in str(error):
            raise
        # Ray replaces 127.0.0.1 by the address of another interface, unless it is told to stay on this machine.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
        ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)


class RayCluster:
    """Computes cells on a Ray cluster, each on one core."""

    def __init__(self, ray: Any, gpus: float) -> None:
        self._ray, self._gpus = ray, gpus
        self._run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, max_calls=0)(on_node)
        self._stored: WeakValueDictionary[tuple[str, str], SharedArray] = WeakValueDictionary()
        self._size: tuple[float, float] | None = None

    @property
    def ahead(self) -> int:
        """See `Executor`; twice as many units as run at the same time on the nodes that there are now."""
        has = self._ray.cluster_resources()
        cores, processors = size = has.get("CPU", 0.0), has.get("GPU", 0.0)
        if size != self._size:
            self._size = size
            log.info("the cluster has %g CPU cores and %g GPUs", *size)
        return 2 * max(1, int(min(cores, processors / self._gpus) if self._gpus else cores))

    @property
    def begun(self) -> int:
        """See `Executor`."""
        return BEGUN

    def capacity(self, cells: Sequence[Cell], material: Material) -> Capacity:  # noqa: ARG002
        """See `Executor`; Ray starts as many as there are cores."""
        return Capacity(self.ahead, TOGETHER)

    @contextmanager
    def sharing(self, group: CellGroup) -> Iterator[Submit]:
        """See `Executor`; an array that another group shares too is stored once."""
        shared = group.material
        images, kept = self._shared(shared.images), self._shared(shared.features.kept)
        features = replace(shared.features, images=images, kept=kept)
        sent = replace(group, material=replace(shared, images=images, features=features), checkpoints=None)
        reference = self._ray.put((sent, _versions()))
        yield lambda index: self._run.remote([reference], index, tuple(group.units[index])).future()

    def _shared(self, tensors: Mapping[str, TensorRows]) -> SharedTensors:
        found: dict[str, tuple[SharedArray, bool]] = {}
        for name, array, last in _arrays(tensors):
            key = _digest(array), f"{array.dtype}{array.shape}"
            shared = self._stored.get(key) or SharedArray(self._ray.put(np.asarray(array)), key[0])
            self._stored[key] = shared
            found[name] = shared, last
        return SharedTensors(found)


def _arrays(tensors: Mapping[str, TensorRows]) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """Yield the name of each tensor, its array, and whether that is ``(n, H, W, C)``."""
    if isinstance(tensors, Shelf):
        yield from tensors.arrays()
        return
    for name, rows in tensors.items():
        if isinstance(rows, StoredRows):
            yield name, np.asarray(rows.array), rows.channels_last
        else:
            yield name, all_rows(rows).numpy(), False


# --- a node -----------------------------------------------------------------------------------------------------


def on_node(group: Sequence[SharedGroup], index: int, keys: Sequence[str]) -> EndedCells:
    """Return the results of a unit of a group; ``keys`` are those of its cells."""
    try:
        received = _received(group[0])
    except Exception as error:
        reason = f"on {platform.node()}: {error if isinstance(error, ClovenError) else repr(error)}"
        return dict.fromkeys(keys, Unfinished(reason, failed=True))
    return compute(received, index)


@lru_cache(maxsize=1)
def _received(reference: SharedGroup) -> CellGroup:
    """Return a group on this node.

    Raises:
        ClovenError: if the node has other versions of packages than the driver, or has received another model.
    """
    import ray

    group: CellGroup
    group, versions = ray.get(reference)
    if versions != (here := _versions()):
        differ = [
            f"{name} {here[name]}, the driver {versions[name]}" for name in ALIKE if here[name] != versions[name]
        ]
        raise ClovenError(f"this node has {'; '.join(differ)}; install the same versions on all nodes")
    model = group.material.classifier
    if isinstance(model, WholeModel) and (
        Graph(model.graph.ops, model.graph.output).fingerprint != group.material.hashes["model"]
    ):
        raise ClovenError("the weights that this node has received are not those of the model; run the study again")
    return group
