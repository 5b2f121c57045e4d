"""The device or link that is named for an overdue image."""

from __future__ import annotations

import pytest

from cloven.runtime.cluster.diagnosis import DONE, culprit
from cloven.runtime.cluster.protocol import ImageState

COMPUTES, SENDS = ImageState(doing="computes", parties=[]), ImageState(doing="sends", parties=[])


def waits(*parties: str) -> ImageState:
    return ImageState(doing="waits", parties=list(parties))


@pytest.mark.parametrize(
    ("states", "named"),
    [
        # a pipeline: the image is at the coordinator, on a link, in a device, on the way back
        ([waits("coordinator"), waits("a"), waits("b")], ("coordinator", "a")),
        ([COMPUTES, waits("a"), waits("b")], ("a",)),
        ([SENDS, waits("a"), waits("b")], ("a", "b")),
        ([DONE, waits("a"), waits("b")], ("a", "b")),
        ([DONE, COMPUTES, waits("b")], ("b",)),
        ([DONE, DONE, COMPUTES], ("c",)),
        ([DONE, DONE, DONE], ("c", "coordinator")),
        ([DONE, DONE, SENDS], ("c", "coordinator")),
        # a device that waits for two others, one of which waits too
        ([waits("coordinator"), waits("a"), waits("a", "b")], ("coordinator", "a")),
        ([COMPUTES, DONE, waits("a", "b")], ("b", "c")),
        # both directions of a link are lost: each waits for the other
        ([DONE, waits("c"), waits("b")], ("c", "b")),
        # it has just received its last input
        ([DONE, waits(), waits("b")], ("b",)),
        ([DONE, DONE, waits()], ("c",)),
        # no device, or not every device, has reported
        ([], ("c", "coordinator")),
        ([None, waits("a"), waits("b")], ("a", "b")),
    ],
)
def test_the_first_that_does_not_wait_is_named(states: list[ImageState | None], named: tuple[str, ...]) -> None:
    known = {name: state for name, state in zip("abc", states, strict=False) if state is not None}

    assert culprit(known, "c") == named
