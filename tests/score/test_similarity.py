"""SSIM and PSNR against scikit-image, and what they must hold whatever the library says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score import similarity
from cloven.score.similarity import C1, PSNR_CAP, psnr, quantise, ssim

SIZES = st.sampled_from([(11, 11), (11, 30), (12, 11), (28, 28), (32, 32), (23, 41), (64, 48)])
SHAPES = st.builds(lambda n, c, size: (n, c, *size), st.integers(1, 3), st.sampled_from([1, 3]), SIZES)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(shape: tuple[int, ...], seed: int) -> Tensor:
    """A few waves: neighbouring pixels are alike, as in a photograph."""
    g = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    y, x = torch.arange(h).view(h, 1) / h, torch.arange(w) / w
    images = torch.zeros(n, c, h, w, dtype=torch.float64)
    for _ in range(4):
        fy, fx, phase = (torch.rand(n, c, 1, 1, generator=g, dtype=torch.float64) * k for k in (12, 12, 6.3))
        images += torch.sin(fy * y + fx * x + phase)
    return images / 8 + 0.5


def pair(shape: tuple[int, ...], kind: str, seed: int) -> tuple[Tensor, Tensor]:
    make = smooth if kind == "smooth" else noise
    a = make(shape, seed)
    if kind == "related":
        return a, (0.6 * a + 0.2 + 0.1 * (noise(shape, seed + 1) - 0.5)).clamp(0, 1)
    return a, make(shape, seed + 1)


def reference_ssim(a: Tensor, b: Tensor) -> list[float]:
    """scikit-image, channel by channel, cropped to the windows that lie inside the image."""
    from skimage import metrics

    reference: Any = metrics.structural_similarity
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    scores = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        maps = [
            reference(p, q, **options, data_range=1.0, full=True)[1][5:-5, 5:-5] for p, q in zip(x, y, strict=True)
        ]
        scores.append(sum(float(m.mean()) for m in maps) / len(maps))
    return scores


@given(shape=SHAPES, kind=st.sampled_from(["noise", "smooth", "related"]), seed=st.integers(0, 10**6))
def test_ssim_equals_scikit_image(shape: tuple[int, ...], kind: str, seed: int) -> None:
    a, b = pair(shape, kind, seed)
    scores = ssim(a, b)
    assert scores.shape == (shape[0],)
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(reference_ssim(a, b), rel=0, abs=1e-9)


@given(shape=SHAPES, kind=st.sampled_from(["noise", "smooth", "related"]), seed=st.integers(0, 10**6))
def test_ssim_is_symmetric_bounded_and_one_for_equal_images(shape: tuple[int, ...], kind: str, seed: int) -> None:
    a, b = pair(shape, kind, seed)
    assert torch.equal(ssim(a, b), ssim(b, a))
    assert bool((ssim(a, b).abs() <= 1 + 1e-12).all())
    assert ssim(a, a).tolist() == pytest.approx([1.0] * len(a), abs=1e-12)


@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_ssim_of_constant_images_is_the_luminance_term(a: float, b: float) -> None:
    x, y = (torch.full((1, 3, 16, 13), value, dtype=torch.float64) for value in (a, b))
    expected = (2 * a * b + C1) / (a * a + b * b + C1)
    assert float(ssim(x, y)) == pytest.approx(expected, rel=0, abs=1e-9)


def test_ssim_of_a_negative_is_negative() -> None:
    a = smooth((2, 1, 28, 28), 5)
    assert bool((ssim(a, 1 - a) < 0).all())


def test_ssim_averages_channels() -> None:
    a, b = pair((3, 3, 20, 24), "related", 0)
    by_channel = torch.stack([ssim(a[:, c : c + 1], b[:, c : c + 1]) for c in range(3)])
    assert ssim(a, b).tolist() == pytest.approx(by_channel.mean(dim=0).tolist(), abs=1e-12)


def test_ssim_of_single_precision_is_computed_in_double() -> None:
    a, b = (t.float() for t in pair((3, 1, 28, 28), "related", 0))
    assert ssim(a, b).tolist() == pytest.approx(reference_ssim(a, b), rel=0, abs=1e-9)


@pytest.mark.parametrize("score", [ssim, psnr])
@pytest.mark.parametrize("budget", [1, 3 * 20 * 24 * 2, 10**9])
def test_scores_do_not_depend_on_the_chunk(score: Any, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair((7, 3, 20, 24), "related", 0)
    expected = score(a, b)
    monkeypatch.setattr(similarity, "CHUNK_VALUES", budget)
    assert torch.allclose(score(a, b), expected, rtol=0, atol=1e-12)


def test_chunks_hold_no_more_than_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = similarity._ssim

    def spy(a: Tensor, b: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        seen.append(a.numel())
        return whole(a, b, rows, cols)

    monkeypatch.setattr(similarity, "_ssim", spy)
    images = torch.rand(3000, 1, 28, 28)
    ssim(images[:1].expand_as(images), images)
    assert sum(seen) == images.numel()
    assert max(seen) <= similarity.CHUNK_VALUES


MEMORY = """
import resource, torch
from cloven.score import ssim
torch.set_num_threads(1)
a, b = (torch.rand(1, 3, 224, 224).expand(300, 3, 224, 224) for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ssim(a, b)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """300 images take 25 to 36 MiB; when small results were kept from each chunk, 9 runs of 10 took 60 to 225."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 50


def test_one_image_expands_over_many() -> None:
    one, many = noise((1, 3, 16, 16), 0), noise((6, 3, 16, 16), 1)
    assert torch.equal(ssim(one.expand_as(many), many), ssim(one.repeat(6, 1, 1, 1), many))


def test_channels_last_and_gradients_change_nothing() -> None:
    a, b = pair((4, 3, 16, 20), "related", 0)
    expected = ssim(a, b)
    scores = ssim(a.to(memory_format=torch.channels_last), b.clone().requires_grad_())
    assert not scores.requires_grad
    assert torch.allclose(scores, expected, rtol=0, atol=1e-12)


@given(shape=SHAPES, kind=st.sampled_from(["noise", "smooth", "related"]), seed=st.integers(0, 10**6))
def test_psnr_equals_scikit_image(shape: tuple[int, ...], kind: str, seed: int) -> None:
    from skimage import metrics

    reference: Any = metrics.peak_signal_noise_ratio
    a, b = pair(shape, kind, seed)
    expected = [float(reference(x.numpy(), y.numpy(), data_range=1)) for x, y in zip(a, b, strict=True)]
    assert psnr(a, b).tolist() == pytest.approx(expected, abs=1e-9)


def test_psnr_of_equal_images_is_the_cap() -> None:
    a = noise((2, 3, 4, 5), 0)
    assert pytest.approx(58.92, abs=0.005) == PSNR_CAP
    assert psnr(a, a).tolist() == pytest.approx([PSNR_CAP] * 2)
    assert float(psnr(a, (a - 1e-6).clamp(0, 1)).max()) <= PSNR_CAP + 1e-12


def test_psnr_is_of_each_image() -> None:
    black = torch.zeros(2, 1, 3, 3)
    other = torch.stack([torch.full((1, 3, 3), 0.1), torch.full((1, 3, 3), 1.0)])
    assert psnr(black, other).tolist() == pytest.approx([20.0, 0.0], abs=1e-6)


def test_the_cap_is_the_error_of_rounding() -> None:
    a = noise((1, 3, 200, 200), 0)
    assert float(psnr(a, quantise(a))) == pytest.approx(PSNR_CAP, abs=0.1)


def test_quantise_gives_8_bit_pixels() -> None:
    images = torch.linspace(-0.5, 1.5, 3 * 16 * 16).view(1, 3, 16, 16)
    levels = quantise(images) * 255
    assert torch.allclose(levels, levels.round(), rtol=0, atol=1e-4)
    assert (float(levels.min()), float(levels.max())) == (0.0, 255.0)
    inside = (images >= 0) & (images <= 1)
    assert float((quantise(images) - images)[inside].abs().max()) <= 0.5 / 255 + 1e-6


def test_quantise_is_what_a_decoder_of_8_bit_files_gives() -> None:
    pixels = torch.arange(256).view(1, 1, 16, 16)
    images = pixels.float() / 255
    assert torch.equal(quantise(images), images)
    assert torch.equal(quantise(quantise(images)), images)
    assert quantise(images.half()).dtype == torch.float32
    assert torch.equal(quantise(images.half()), images)


def test_quantise_leaves_its_input_alone() -> None:
    images = noise((1, 1, 4, 4), 0).float()
    before = images.clone()
    quantise(images)
    assert torch.equal(images, before)


GOOD = torch.full((2, 3, 16, 16), 0.5)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (GOOD[..., :10], GOOD[..., :10], r"at least 11 x 11 pixels.*got 16 x 10.*larger input size"),
        (GOOD, GOOD[:1], r"one shape, got \(2, 3, 16, 16\) and \(1, 3, 16, 16\)"),
        (GOOD, GOOD[:, :1], r"one shape, got \(2, 3, 16, 16\) and \(2, 1, 16, 16\)"),
        (GOOD[0], GOOD[0], r"\(n, C, H, W\), got the shape \(3, 16, 16\)"),
        (GOOD[:0], GOOD[:0], r"non-empty"),
        (GOOD, GOOD + 0.6, r"lie in \[0, 1\], got values from 1.1 to 1.1"),
        (GOOD - 0.6, GOOD, r"lie in \[0, 1\], got values from -0.1 to -0.1"),
        (GOOD, GOOD * float("nan"), r"got values from nan to nan.*look for the NaN"),
        (GOOD.to(torch.uint8), GOOD, r"floating point in \[0, 1\], got torch.uint8; divide"),
    ],
)
def test_ssim_refuses(a: Tensor, b: Tensor, words: str) -> None:
    with pytest.raises(ClovenError, match=words):
        ssim(a, b)


def test_one_nan_in_the_last_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "CHUNK_VALUES", 1)
    broken = GOOD.clone()
    broken[-1, -1, -1, -1] = float("nan")
    for score in (ssim, psnr):
        with pytest.raises(ClovenError, match="nan"):
            score(GOOD, broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_quantise_refuses_what_is_not_finite(value: float) -> None:
    broken = GOOD.clone()
    broken[0, 0, 0, 0] = value
    with pytest.raises(ClovenError, match="finite"):
        quantise(broken)


def test_quantise_refuses_integers() -> None:
    with pytest.raises(ClovenError, match="divide 8-bit pixels by 255"):
        quantise(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
