"""The cluster file (TOML): the addresses of the devices' workers, and the coordinator's keys.

keys = "keys/coordinator"          # a folder of `cloven keys new`; left out, no mTLS and no protected links
insecure = false                   # true: no mTLS although there are keys

[devices]
edge0 = "192.168.1.10:7001"
edge1 = "192.168.1.11:7001"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from cloven.documents import Document, wrong_entries
from cloven.errors import ClovenError
from cloven.files import read_toml

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:\s/]+):[0-9]{1,5}")


class Cluster(Document):
    """The addresses of the workers. ``keys`` is relative to the file's own folder."""

    keys: str | None = None
    insecure: bool = False
    devices: dict[str, str] = Field(min_length=1)

    def problems(self, devices: Sequence[str]) -> list[str]:
        """Return what is wrong with it for these devices."""
        found = [f'no address of {name}: add {name} = "HOST:PORT"' for name in devices if name not in self.devices]
        found += [f"{name} is not a device of the plan" for name in self.devices if name not in devices]
        found += [
            f'{name} = {address!r} is not an address; expected HOST:PORT such as "192.168.1.10:7001"'
            for name, address in self.devices.items()
            if not ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 2**16
        ]
        same = [a for a in self.devices.values() if list(self.devices.values()).count(a) > 1]
        found += [f"two devices have the address {address}" for address in dict.fromkeys(same)]
        return found


def read_cluster(path: Path, devices: Sequence[str]) -> Cluster:
    """Return the cluster of a plan's devices.

    Raises:
        ClovenError: with all that is wrong with the file.
    """
    try:
        made = Cluster.model_validate(read_toml(path))
    except ValidationError as error:
        expected = 'expected [devices] with a line such as edge0 = "192.168.1.10:7001"'
        raise ClovenError([*wrong_entries(error, str(path)), expected]) from error
    if problems := made.problems(devices):
        raise ClovenError([f"{path}: {problem}" for problem in problems])
    return made.model_copy(update={"keys": str(path.parent / made.keys)}) if made.keys is not None else made
