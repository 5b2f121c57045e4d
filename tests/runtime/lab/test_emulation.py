"""A laboratory emulates the links of a cluster file, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path

from cloven import Cluster
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.profile import LinkProfile, Transmission
from cloven.runtime.lab import laboratory
from cloven.runtime.lab.emulation import Emulation
from cloven.runtime.lab.laboratory import Experiment
from cloven.runtime.lab.network import LinkQuality
from tests.runtime.lab.programs import root
from tests.runtime.lab.test_evidence import VERTICAL, divided, pixels

DEVICES = ("edge0", "edge1")


def profile(bandwidth: float, delay: float, message: float = 0.0, loss: float = 0.0) -> LinkProfile:
    return LinkProfile(
        name="a link",
        transmission=Transmission(origin="assumed", bandwidth=bandwidth, delay=delay, message=message, loss=loss),
    )


def cluster(default: ClusterLink = ClusterLink(), **links: ClusterLink) -> Cluster:  # noqa: B008 (frozen)
    """Return a cluster of two devices; an underscore in the name of a link is a hyphen."""
    devices = dict.fromkeys(DEVICES, ClusterDevice())
    return Cluster(devices, {name.replace("_", "-"): link for name, link in links.items()}, default)


def test_a_cluster_gives_each_link_its_properties() -> None:
    made = cluster(ClusterLink(profile(1e8, 2e-4)), edge1_edge0=ClusterLink(profile(2e7, 2e-3, loss=0.01)))

    assert Emulation(cluster=made).qualities(DEVICES) == {
        ("coordinator", "edge0"): LinkQuality(10**8, 2e-4),
        ("coordinator", "edge1"): LinkQuality(10**8, 2e-4),
        ("edge0", "edge1"): LinkQuality(2 * 10**7, 2e-3, 0.01),
    }
    assert set(Emulation(bandwidth=10**6).qualities(DEVICES).values()) == {LinkQuality(10**6)}
    assert list(Emulation(cluster=made).problems(DEVICES)) == []


def test_what_cannot_be_emulated_is_said() -> None:
    wifi = ClusterLink(profile(2e7, 2e-3, message=5e-4), medium="wifi")
    emulated = Emulation(cluster=cluster(edge0_edge1=wifi))

    assert emulated.quality("coordinator", "edge0") == LinkQuality()
    assert list(emulated.left_out([("coordinator", "edge0"), ("edge0", "edge1")])) == [
        "links without a profile in the cluster file are unlimited: coordinator-edge0",
        "the time of each message in the profile is not emulated: edge0-edge1",
        "the shared medium is not emulated, each link has its full bandwidth: edge0-edge1",
    ]
    assert list(Emulation(bandwidth=10**6).left_out([("edge0", "edge1")])) == []


def test_all_problems_of_a_cluster_are_listed() -> None:
    emulated = Emulation(cluster=cluster(edge0_edge1=ClusterLink(profile(100, 11.0))), speeds={"edge1": 2})

    assert list(emulated.problems(("edge0", "edge1", "edge2"))) == [
        "speed of edge1: expected a number above 0, at most 1, got 2",
        "the cluster has no device edge2; it has edge0, edge1",
        "edge0-edge1: expected 8,000 to 40,000,000,000 bit/s, got 100",
        "edge0-edge1: expected a delay of at most 10 s, got 11 s",
    ]


@root
def test_a_laboratory_has_the_links_of_the_cluster(tmp_path: Path) -> None:
    made = cluster(edge0_edge1=ClusterLink(profile(1e8, 2e-3)), coordinator_edge0=ClusterLink(profile(1e9, 0.0)))
    found = laboratory.run(Experiment(*divided(VERTICAL, 2), pixels(3), 0, tmp_path / "lab", cluster=made))

    assert found.summary.answered == 3
    assert {row.link: (row.bandwidth_bits, row.delay_ms) for row in found.network} == {
        ("coordinator", "edge0"): (10**9, 0.0),
        ("coordinator", "edge1"): (None, 0.0),
        ("edge0", "edge1"): (10**8, 2.0),
    }
    (link,) = [row for row in found.summary.links if row.link == ("edge0", "edge1")]
    assert link.ms > 2
