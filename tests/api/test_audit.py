"""`cloven.audit`: reconstructions of images, and labels that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cloven
from cloven.attacks import Decoder, Knowledge, LabelReader, Nearest, Reconstructor, Residual, needed
from cloven.partition.transform import Transform, Transforms
from cloven.rows import all_rows
from cloven.zoo.datasets import load


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Return images of bright blobs, which have something to reconstruct."""
    return blobs(200, seed=0)


@pytest.fixture(scope="module")
def tests() -> Tensor:
    return blobs(40, seed=1)


def blobs(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear").clamp(0, 1)


@pytest.fixture(scope="module")
def results(program: cloven.Program, photos: Tensor, tests: Tensor) -> cloven.Results:
    return cloven.audit(
        cloven.observe(program), [Residual(epochs=2), "nearest", "probe"], auxiliary=photos, victims=tests
    )


def test_every_attack_is_tried_on_every_observation(results: cloven.Results) -> None:
    tried = {(finding.link, finding.attack) for finding in results.findings}

    links = [("edge0", "edge1"), ("edge1", "edge2")]
    assert tried == {(link, attack) for link in links for attack in ("residual", "nearest", "probe")}


def test_every_score_has_its_baseline_and_its_interval(results: cloven.Results) -> None:
    for finding in results.findings:
        assert finding.agreement.low <= finding.agreement.mean <= finding.agreement.high
        assert finding.agreement.covers == "images only"
        assert finding.baseline("agreement") is not None
        assert (finding.ssim is None) == (finding.attack == "probe")


def test_a_tenth_of_the_auxiliary_images_chooses_and_does_not_train(results: cloven.Results) -> None:
    assert {finding.pairs for finding in results.findings} == {180}
    assert {finding.held_out.images for finding in results.findings if finding.held_out} == {20}


def test_the_strongest_attack_is_the_best_on_held_out_pairs(results: cloven.Results) -> None:
    for finding in results.strongest("pixels"):
        rivals = [f for f in results.findings if f.observation == finding.observation and f.ssim is not None]
        scores = {f.attack: f.held_out.ssim for f in rivals if f.held_out is not None}
        assert finding.attack == max(scores, key=lambda attack: scores[attack] or 0.0)


def test_what_leaks_most_comes_first(results: cloven.Results) -> None:
    first, second = results.strongest()

    assert (first.link, second.link) == (("edge0", "edge1"), ("edge1", "edge2"))
    assert first.ssim is not None
    assert second.ssim is not None
    assert first.ssim.mean > second.ssim.mean


def test_one_attack_trains_on_all_images(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    found = cloven.audit(cloven.observe(program, "edge0-edge1"), "nearest", auxiliary=photos, victims=tests)

    (finding,) = found.findings
    assert (finding.pairs, finding.held_out) == (200, None)


def test_several_seeds_give_intervals_over_images_and_seeds(
    program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")
    (finding,) = cloven.audit(seen, Decoder(epochs=1), auxiliary=photos, victims=tests, seeds=3).findings
    (alone,) = cloven.audit(seen, Decoder(epochs=1), auxiliary=photos, victims=tests).findings

    assert finding.seeds == (0, 1, 2)
    assert finding.ssim is not None
    assert alone.ssim is not None
    assert finding.ssim.covers == "images and seeds"
    assert finding.ssim.of_seeds[0] == pytest.approx(alone.ssim.mean, abs=1e-6)


def test_attacks_of_one_name_are_told_apart_by_their_settings(
    program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")
    attacks = [Residual(epochs=1), Residual(epochs=1, blocks=2)]
    found = cloven.audit(seen, attacks, auxiliary=photos, victims=tests)

    assert [finding.attack for finding in found.findings] == ["residual epochs=1", "residual epochs=1, blocks=2"]


@dataclass(frozen=True)
class MeanImage:
    """A user's own attack: the mean of the auxiliary images, brightened."""

    gain: float = 1.0

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        """Return a function that ignores the captured tensors."""
        mean = all_rows(needed(knowledge.auxiliary, "MeanImage", "images")).mean(0).mul(self.gain).clamp(0, 1)
        return lambda captured: mean.expand(len(captured[0]), *mean.shape)


def test_an_attack_of_ones_own_is_used_as_it_is(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")
    found = cloven.audit(seen, [MeanImage(), MeanImage(gain=1.5), "nearest"], auxiliary=photos, victims=tests)

    assert [f.attack for f in found.findings] == ["MeanImage", "MeanImage gain=1.5", "nearest"]
    first = found.findings[0]
    assert first.ssim is not None
    assert first.ssim.mean < (first.baseline("ssim") or ("", 0.0))[1], "the domain's mean is better"
    assert first.leakage.ssim == 0


def test_copies_of_a_victim_are_scored_once(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    seen, victims = cloven.observe(program, "edge1-edge2"), torch.cat([tests[:30], tests[:20], tests[3:4]])
    found = cloven.audit(seen, "nearest", auxiliary=photos, victims=victims)
    once = cloven.audit(seen, "nearest", auxiliary=photos, victims=tests[:30])

    assert found.summary.warnings == (
        "21 victim images are copies of others; each image is scored once, 30 in all.",
    )
    assert found.findings[0].ssim == once.findings[0].ssim
    assert (found.findings[0].key, found.findings[0].victims) == (once.findings[0].key, 30)
    with pytest.raises(cloven.ClovenError, match="200 victim images, 199 of them copies of others; expected 20"):
        cloven.audit(seen, "nearest", auxiliary=photos, victims=tests[:1].expand(200, -1, -1, -1))


def test_copies_of_an_own_image_do_not_choose_between_attacks(program: cloven.Program, tests: Tensor) -> None:
    seen, own = cloven.observe(program, "edge1-edge2"), blobs(1, seed=9).expand(100, -1, -1, -1)
    with pytest.raises(cloven.ClovenError, match="100 auxiliary images, 1 of them different, are too few"):
        cloven.audit(seen, ["nearest", "probe"], auxiliary=own, victims=tests)


def test_a_kept_audit_is_not_done_again(
    program: cloven.Program, photos: Tensor, tests: Tensor, tmp_path: Path
) -> None:
    seen = cloven.observe(program, "edge1-edge2")
    for _ in range(2):
        found = cloven.audit(seen, "nearest", auxiliary=photos, victims=tests, folder=tmp_path / "run")
        times = {path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
        assert len(found.findings) == 1
    assert len(times) == 2, "a cell is two files, written once"

    with pytest.raises(cloven.ClovenError, match="holds an audit with another configuration"):
        cloven.audit(seen, "probe", auxiliary=photos, victims=tests, folder=tmp_path / "run")


def test_links_that_transform_are_run_and_recorded(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    model = program.model
    assert model is not None
    noisy = cloven.divide(
        model, cloven.Vertical(cuts=["1"]), devices=2, transforms=Transforms(default=Transform.parse("int8"))
    )
    (finding,) = cloven.audit(cloven.observe(noisy), "nearest", auxiliary=photos, victims=tests).findings

    assert finding.transform == "int8"


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.audit(*arguments, **options)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_what_is_not_an_observation_is_answered_in_one_sentence(
    model: cloven.Graph, net: torch.nn.Module, program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    expected = "expected observations that cloven.observe(program)"
    images = {"auxiliary": photos, "victims": tests}

    assert f"observations is a Graph; {expected}" in refusal(model, "residual", **images)
    assert f"observations is a Sequential; {expected}" in refusal(net, "residual", **images)
    assert f"observations is a Program; {expected}" in refusal(program, "residual", **images)
    assert f"observations is 'edge0'; {expected}" in refusal("edge0", "residual", **images)
    assert f"there are no observations; {expected}" in refusal([], "residual", **images)
    assert "an observation is a Program" in refusal([program], "residual", **images)


def test_what_is_not_an_attack_is_answered_in_one_sentence(
    program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    seen, images = cloven.observe(program), {"auxiliary": photos, "victims": tests}

    assert "pass Residual(), not Residual" in refusal(seen, [Residual], **images)
    assert "pass Residual(), not Residual" in refusal(seen, Residual, **images)
    assert "int is not an attack" in refusal(seen, 10, **images)
    assert "no attack is named 'resdual'; did you mean residual" in refusal(seen, "resdual", **images)
    assert "attack 'nearest' is given 2 times" in refusal(seen, [Nearest(), Nearest()], **images)


def test_what_is_not_an_image_is_answered_in_one_sentence(program: cloven.Program, photos: Tensor) -> None:
    seen = cloven.observe(program)

    assert "victims is missing; expected images" in refusal(seen, "nearest", auxiliary=photos)
    assert "auxiliary is 'photos'; expected images (n, 3, 12, 12)" in refusal(
        seen, "nearest", auxiliary="photos", victims=photos
    )
    assert "the victim images have shape (40, 3, 8, 8)" in refusal(
        seen, "nearest", auxiliary=photos, victims=torch.zeros(40, 3, 8, 8)
    )
    assert "judge is a Tensor; expected a second model" in refusal(
        seen, "nearest", auxiliary=photos, victims=photos, judge=photos
    )

    numbers = photos.numpy()
    for wrong, message in (
        (photos * float("nan"), "the victim images hold NaN or infinity; expected float32 in [0, 1]"),
        (photos * 255, "the victim images hold numbers outside [0, 1]; divide 8-bit pixels by 255"),
        (photos.to_sparse(), "a tensor with layout torch.sparse_coo; expected a dense tensor"),
        (numbers.astype(object), "the victim images are an array of object; expected float32 in [0, 1]"),
    ):
        assert message in refusal(seen, "nearest", auxiliary=photos, victims=wrong)


def test_arrays_that_pytorch_cannot_share_are_copied(
    program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")
    numbers = tests.numpy()
    kinds = (numbers, numbers.astype(">f4"), numbers[:, :, ::-1].copy()[:, :, ::-1])
    found = [cloven.audit(seen, "nearest", auxiliary=photos, victims=kind).findings[0] for kind in kinds]

    assert len({(one.key, one.ssim.mean) for one in found if one.ssim}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds is 0; expected 1 or more"),
        ({"seeds": 1.5}, "seeds is 1.5; expected a whole number, 1 or more"),
        ({"seeds": True}, "seeds is True; expected a whole number, 1 or more"),
        ({"seeds": "3"}, "seeds is '3'; expected a whole number, 1 or more"),
        ({"seeds": ["3"]}, "a seed is '3'; expected a whole number, 0 or more"),
        ({"seeds": [2**70]}, f"a seed is {2**70}; expected less than 2**63"),
        ({"seeds": []}, "seeds are []; expected one or more, each once"),
        ({"seeds": [1, 1]}, "seeds are [1, 1]; expected one or more, each once"),
        ({"attack_seconds": 0}, "attack seconds are 0; expected a positive number"),
        ({"attack_seconds": float("nan")}, "attack seconds are nan; expected a positive number"),
        ({"attack_seconds": "60"}, "attack_seconds is '60'; expected a positive number, or None"),
        ({"jobs": 0}, "jobs is 0; expected 1 or more"),
        ({"jobs": None}, "jobs is None; expected a whole number, 1 or more"),
        ({"knows": "all"}, "knows is 'all'; expected one of 'places', 'shapes', 'inferred', 'numbers'"),
        ({"knows": ""}, "knows is ''; expected one of 'places', 'shapes', 'inferred', 'numbers'"),
        ({"threshold": "a"}, "threshold is 'a'; expected an SSIM between 0 and 1"),
        ({"threshold": float("nan")}, "threshold is nan; expected an SSIM between 0 and 1"),
        ({"folder": 3}, "folder is 3; expected a path"),
        ({"attacks": "paste"}, "paste: works on none of these observations; choose others"),
        (
            {"attacks": cloven.Decoder(epochs=2, learning_rate=1e30)},
            "decoder on program, After 3, seed 0 failed: decoder reconstructed NaN or infinite pixels: "
            "its training diverged; lower its learning rate",
        ),
    ],
)
def test_a_wrong_option_is_answered_in_one_sentence(
    program: cloven.Program, photos: Tensor, tests: Tensor, options: dict[str, Any], message: str
) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")

    assert refusal(seen, **{"attacks": "nearest", "auxiliary": photos, "victims": tests} | options) == message


def test_a_number_of_numpys_is_a_number(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    (seen,) = cloven.observe(program, "edge1-edge2")

    found = cloven.audit(seen, "nearest", auxiliary=photos, victims=tests, seeds=np.int64(2))  # type: ignore[arg-type]
    assert found.findings[0].seeds == (0, 1)


class Reader:
    """An attack that reads one class everywhere."""

    name = "an\nattack"  # a name of two lines would break every table

    def __init__(self, label: int) -> None:
        self.label = label

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> LabelReader:
        """Return itself."""
        return self

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        """Return the same class for every image."""
        return torch.full((len(captured[0]),), self.label)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_class_that_the_model_does_not_have_is_refused(
    program: cloven.Program, photos: Tensor, tests: Tensor, label: int
) -> None:
    seen = cloven.observe(program, "edge1-edge2")

    assert refusal(seen, Reader(label), auxiliary=photos, victims=tests) == (
        f"Reader on program, After 3, seed 0 failed: Reader read class {label}; expected classes from 0 to 4"
    )


def test_only_a_classifier_of_the_same_images_is_attacked_and_judges(
    net: torch.nn.Module, program: cloven.Program, photos: Tensor, tests: Tensor
) -> None:
    images = {"auxiliary": photos, "victims": tests}
    maps = cloven.capture(net[:3], photos[:1])  # type: ignore[index]
    large = cloven.capture(
        torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3), torch.nn.Flatten()), torch.zeros(1, 3, 16, 16)
    )
    blind = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3), torch.nn.Flatten(), torch.nn.Linear(100, 5))
    torch.nn.init.constant_(next(blind[2].parameters()), float("nan"))
    seen = [
        cloven.observe(cloven.divide(one, cloven.Vertical(cuts=["0"])))
        for one in (maps, cloven.capture(blind, photos[:1]))
    ]

    assert "the model returns (n, 8, 6, 6); an audit needs a classifier" in refusal(seen[0], "nearest", **images)
    assert "the model's output is NaN for" in refusal(seen[1], "nearest", **images)
    assert refusal(cloven.observe(program), "nearest", judge=large, **images) == (
        "judge takes images of (3, 16, 16); expected a classifier of images of (3, 12, 12)"
    )


def test_labels_of_other_classes_than_the_models_are_refused(program: cloven.Program, photos: Tensor) -> None:
    digits = load("digits", shape=(3, 12, 12), limit=20)

    assert "the victim images have 10 classes; the model has 5 outputs" in refusal(
        cloven.observe(program), "nearest", auxiliary=photos, victims=digits
    )


def test_an_image_never_trains_and_scores(program: cloven.Program, photos: Tensor) -> None:
    with pytest.raises(cloven.ClovenError, match="20 auxiliary images are also victim images"):
        cloven.audit(cloven.observe(program), "nearest", auxiliary=photos, victims=photos[:20])


def test_an_audit_is_of_one_model(program: cloven.Program, photos: Tensor, tests: Tensor) -> None:
    torch.manual_seed(1)
    other = cloven.capture(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()), torch.zeros(1, 3, 12, 12)
    )
    second = cloven.divide(other, cloven.Vertical(cuts=["0"]), devices=2)
    both = [*cloven.observe(program), *cloven.observe(second)]

    assert "the observations are of 2 models; expected one model" in refusal(
        both, "nearest", auxiliary=photos, victims=tests
    )
