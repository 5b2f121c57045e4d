"""Scores inside a region: what is known there, and what is not."""

from __future__ import annotations

import pytest
import torch

from cloven.score import inside, psnr, ssim
from cloven.score.similarity import PSNR_CAP


def test_a_region_is_scored_as_an_image_of_its_own() -> None:
    a, b = (torch.rand(4, 3, 30, 20, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    found = inside(a, b, (5, 0, 25, 15))

    assert found.ssim == pytest.approx(float(ssim(a[:, :, 5:25, :15], b[:, :, 5:25, :15]).mean()))
    assert found.psnr == pytest.approx(float(psnr(a[:, :, 5:25, :15], b[:, :, 5:25, :15]).mean()))
    assert found.coverage == 0.5


def test_what_is_known_exactly_is_equal_there_whatever_the_rest() -> None:
    a = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[:, :, 12:] = 0
    found = inside(b, a, (0, 0, 12, 24))

    assert found.ssim == pytest.approx(1)
    assert found.psnr == pytest.approx(PSNR_CAP)


def test_a_region_below_the_window_has_no_ssim() -> None:
    a = torch.rand(4, 1, 24, 24)

    assert inside(a, a, (0, 0, 5, 24)).ssim is None
