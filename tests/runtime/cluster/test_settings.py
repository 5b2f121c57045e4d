"""gRPC silently ignores unknown settings, so these tests check their effects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from cloven.runtime.cluster.channels import COMMON, QUICK
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.machines import Machine, cluster, coordinator, machines, outcomes, within
from tests.runtime.cluster.plans import accounted, bundled, many, plan_of

BUNDLE = bundled("lenet5", "pair")


def test_grpc_knows_each_setting_by_its_name() -> None:
    library = Path(import_module("grpc._cython.cygrpc").__file__ or "").read_bytes()

    assert [name for name, _ in (*COMMON, *QUICK) if name.encode() + b"\0" not in library] == []


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    with machines(BUNDLE, tmp_path / "workers") as made:
        yield made


@pytest.mark.slow
def test_links_that_carry_nothing_for_a_while_stay_up(workers: dict[str, Machine], tmp_path: Path) -> None:
    """If pings were not permitted, the fourth would end the connection after 30 to 40 s."""

    async def run() -> None:
        async with coordinator(plan_of(BUNDLE), cluster(tmp_path, workers), SendOptions()) as made:
            await asyncio.sleep(45)
            assert not accounted(await outcomes(made, many(8)))
            for name, other in (("edge0", "edge1"), ("edge1", "edge0"), ("edge0", "coordinator")):
                assert workers[name].count("cloven_link_losses_total", party=other) == 0

    within(90, run())
