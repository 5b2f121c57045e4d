"""Audits with several attacks: the strongest, running maxima, learning curves, transforms, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cloven.attacks.provenance import label_of
from cloven.auditing.suite import NAMES, AttackSuite
from cloven.graph.box import whole
from cloven.partition.observe import Observation, Seen
from cloven.partition.transform import Transform
from cloven.zoo.models import build
from tests.auditing.small import small
from tests.cli.conftest import Run, cloven

__all__ = ["cloven"]

FEW = ("--queries", "60", "--victims", "30", "--jobs", "1")


def planned(cloven: Run, *options: str) -> str:
    done = cloven(
        "plan", "lenet5", "--strategy", "vertical", "--cuts", "conv1,conv2,pool2", "--out", "plan.toml", *options
    )
    assert done.code == 0, done.err
    return "plan.toml"


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_every_link_of_a_plan_gets_a_verdict_over_the_suite(cloven: Run, here: Path) -> None:
    done = cloven(
        "audit", planned(cloven), *FEW, "--attacks", "probe,screen", "--seeds", "2",
        "--shape", "inferred", "--colluding", "edge0-edge1,edge1-edge2", "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = summary_of(here / "run")
    links = [["edge0", "edge1"], ["edge1", "edge2"], ["edge2", "edge3"]]

    assert [one["links"] for one in summary["observations"]] == [[link] for link in links] + [links[:2]]
    assert {f["attack"] for f in summary["findings"]} == {"probe", "screen"}
    assert all(f["seeds"] == [0, 1] and len(f["agreement"]["of_seeds"]) == 2 for f in summary["findings"])
    assert summary["judge"]["name"] == "small"
    assert all((f["judge"] is None) == (f["attack"] == "probe") for f in summary["findings"])
    assert summary["shapes"]["hits"] <= summary["shapes"]["of"] == 5
    assert summary["verdict"]["given"]

    for one in summary["observations"]:
        mine = [f for f in summary["findings"] if f["observation"] == one["observation"]]
        assert one["labels_read"]
        for axis, metric in (("pixels", "ssim"), ("labels", "agreement")):
            best = max((f for f in reversed(mine) if f[metric]), key=lambda f: f["held_out"][metric])
            assert one["own"][axis]["mean"] == best[metric]["mean"]
            assert one["own"][axis]["held_out"] == best["held_out"][metric]
        carried = [score for score in one["counts"].values() if score["carried_from"]]
        doubted = [score for score in one["own"].values() if score["exceeded_by"]]
        assert len(one["flags"]) == len(carried) + len(doubted)
        assert {score["converged"] for score in one["counts"].values()} == {"not tested"}


def test_learning_curves_stand_on_the_first_pairs_and_say_whether_they_rise(cloven: Run, here: Path) -> None:
    cloven(
        "audit", planned(cloven), *FEW, "--attacks", "screen,probe", "--curve", "--judge", "none", "--out", "run"
    )
    summary = summary_of(here / "run")

    curves = summary["curves"]
    tried = [(curve["attack"], curve["over"]) for curve in curves]
    assert tried == 3 * [("screen", "pairs"), ("screen", "training"), ("probe", "pairs")]
    for curve in curves:
        training = curve["over"] == "training"
        assert [point["pairs"] for point in curve["points"]] == ([60, 60] if training else [15, 30, 60])
        assert [point["epochs"] for point in curve["points"]] == (
            [1, 3] if training else [None, None, None] if curve["attack"] == "probe" else [3, 3, 3]
        )
        assert (curve["ssim"] is None) == (curve["attack"] == "probe")
        rise, points = curve["agreement"], curve["points"]
        more = points[-1]["agreement"]["mean"] - points[-2]["agreement"]["mean"]
        assert rise["mean"] == pytest.approx(more, abs=1e-6)
        assert rise["shows"] == ("none" if rise["high"] <= 0.02 else "rises" if rise["low"] > 0 else "undecided")
        last = next(
            f for f in summary["findings"]
            if (f["observation"], f["attack"]) == (curve["observation"], curve["attack"])
        )  # fmt: skip
        assert curve["points"][-1]["agreement"]["mean"] == last["agreement"]["mean"]
    assert {f["pairs"] for f in summary["findings"]} == {60}
    words = {score["converged"] for one in summary["observations"] for score in one["counts"].values()}
    assert words
    for word in words:
        assert f"{word} (" in (summary["verdict"]["sentence"] or word + " (")
        assert word in (here / "run" / "report.html").read_text()


def test_transforms_are_compared_side_by_side_and_trained_against(cloven: Run, here: Path) -> None:
    plan = planned(cloven)
    common = (plan, *FEW, "--attacks", "nearest,probe", "--judge", "none")
    cloven("audit", *common, "--defences", "none,int8,topk:0.01", "--out", "several")
    cloven("audit", *common, "--out", "plain")
    several, plain = summary_of(here / "several"), summary_of(here / "plain")
    rows = {row["transform"]: row for row in several["defences"]}

    assert list(rows) == ["none", "int8", "topk:0.01"]
    sizes = [t["bytes"] // 4 for t in several["programs"][0]["transfers"]]
    for name, row in rows.items():
        assert row["bytes"] == sum(Transform.parse(name).bytes(size) for size in sizes)
    assert rows["none"]["accuracy"] == several["model_accuracy"] > rows["topk:0.01"]["accuracy"]
    keys = {name: {f["key"] for f in several["findings"] if f["transform"] == name} for name in rows}
    assert keys["none"] == {f["key"] for f in plain["findings"]}, (
        "a finding does not depend on what it stands beside"
    )
    assert len(keys["none"] | keys["int8"] | keys["topk:0.01"]) == 3 * 6
    assert plain["defences"] == []


def test_what_a_transform_did_before_a_link_is_in_what_crosses_it(cloven: Run, here: Path) -> None:
    """The second link has no transform, but its values were computed from noise."""
    plan = planned(cloven, "--transform", "edge0-edge1=noise:5")
    cloven("audit", plan, *FEW, "--attacks", "probe", "--judge", "none", "--out", "noisy")
    cloven("audit", planned(cloven), *FEW, "--attacks", "probe", "--judge", "none", "--out", "plain")
    noisy, plain = summary_of(here / "noisy"), summary_of(here / "plain")

    assert noisy["programs"][0]["accuracy"] < plain["programs"][0]["accuracy"]
    keys = [{f["key"] for f in s["findings"]} for s in (noisy, plain)]
    assert not keys[0] & keys[1]


def test_tiles_are_pasted_completed_and_scored_inside(cloven: Run, here: Path) -> None:
    cloven("plan", "lenet5", "--strategy", "data", "--grid", "1x2", "--until", "pool1", "--out", "tiles.toml")
    done = cloven(
        "audit", "tiles.toml", *FEW, "--attacks", "decoder,paste,enlarge,inpaint", "--epochs", "1",
        "--judge", "none", "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = summary_of(here / "run")
    image = [f for f in summary["findings"] if f["raw_image"]]
    paste = next(f for f in image if f["attack"] == "paste")

    assert {f["attack"] for f in image} == {"decoder", "paste", "enlarge", "inpaint"}
    assert {f["attack"] for f in summary["findings"] if not f["raw_image"]} <= {"decoder"}
    assert paste["inside"]["ssim"] == pytest.approx(1, abs=1e-3)
    assert paste["inside"]["coverage"] == pytest.approx(image[0]["raw_image"])
    assert paste["ssim"]["mean"] < 0.9


def test_a_model_with_weights_of_its_own_is_audited_as_it_is(cloven: Run, here: Path) -> None:
    torch.manual_seed(3)
    save_file(build("lenet5", shape=(1, 28, 28), classes=10).state_dict(), here / "w.safetensors")
    done = cloven(
        "audit", "lenet5", "--weights", "w.safetensors", "--auxiliary", "same", "--mirror", *FEW, "--attacks",
        "probe", "--strategies", "vertical", "--judge", "none", "--out", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = summary_of(here / "run")

    assert summary["settings"]["weights"] == "w.safetensors"
    assert summary["model_accuracy"] < 0.5
    assert not summary["verdict"]["given"]
    assert {f["pairs"] for f in summary["findings"]} == {120}
    assert summary["auxiliary"] == summary["data"] == "digits"


def test_all_that_is_wrong_is_said_at_once(cloven: Run, here: Path) -> None:
    plan = planned(cloven)
    before = sorted(here.rglob("*"))
    done = cloven(
        "audit", plan, "--attacks", "psychic", "--colluding", "edge0-edge9,edge1-edge2", "--defences", "jpeg",
        "--shape", "3x3", "--features", "int4", "--device", "tpu", "--out", "run",
    )  # fmt: skip

    assert done.code == 2
    for part in ("edge9", "jpeg", "--shape is '3x3'", "--features is 'int4'", "device is 'tpu'"):
        assert part in done.err, part
    done = cloven("audit", plan, "--attacks", "psychic", "--seeds", "1", "--threshold", "7", "--out", "run")
    assert "no attack is named 'psychic'; choose from nearest, knn, probe, mlp-probe" in done.err
    assert "threshold is 7.0; expected an SSIM between 0 and 1" in done.err
    done = cloven("audit", plan, "--strategies", "data", "--out", "run")
    assert "--strategies cannot be used with a plan" in done.err
    done = cloven("audit", "lenet5", "--colluding", "edge0-edge1,edge1-edge2", "--out", "run")
    assert "--colluding requires a plan, whose links it names" in done.err
    assert sorted(here.rglob("*")) == before


def test_an_attack_that_cannot_work_on_a_plan_is_not_tried_on_it(cloven: Run) -> None:
    cells = json.loads(
        cloven("audit", planned(cloven), "--attacks", "decoder,paste,refine", "--dry-run", "--json").out
    )

    assert [cell["attacks"] for cell in cells["cells"]] == [["decoder", "refine-pixels", "refine-labels"]] * 3


def test_every_name_is_an_attack_that_is_called_so() -> None:
    made = small()
    image = made.graph.input
    seen = Observation((Seen(image.name, whole(image.shape)),), "paper", True, (), made.graph)

    assert [label_of(attack) for attack in AttackSuite(NAMES).on(seen, None).values()] == list(NAMES)
    assert [label_of(attack) for attack in AttackSuite(NAMES).on(made.seen(0), None).values()] == [
        name for name in NAMES if name not in ("paste", "enlarge", "inpaint")
    ]
    assert AttackSuite(("x",), epochs=0).problems()[0].startswith("no attack is named 'x'; choose from nearest,")
