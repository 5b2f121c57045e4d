from __future__ import annotations

from typing import Any

from rich.console import Console

from cloven.reporting.terminal import text
from tests.reporting.summaries import document, summary


def printed(**changes: Any) -> str:
    console = Console(width=100)
    with console.capture() as drawn:
        console.print(text(document(summary(**changes))))
    return drawn.get().replace("\N{NO-BREAK SPACE}", " ")


def test_devices_links_and_figures_are_printed() -> None:
    lines = printed()

    assert "│ edge0  conv1 │" in lines
    assert "  │  edge0 → edge1, after conv2, 6.4 kB\n" in lines
    assert "  │  Sees the image.\n" in lines
    assert "67 % [65, 70]" in lines
    assert "SSIM 0.71 [0.69, 0.73], baseline 0.11, by decoder" in lines


def test_no_verdict_is_said() -> None:
    assert "No verdict is given: kappa is 0.1" in printed(verdict={"given": False, "reason": "kappa is 0.1"})


def test_control_characters_are_not_printed() -> None:
    assert "\x1b" not in printed(model="net\x1b[31m")
