"""The hand-over of tensors by memory, file and pipe, and the messages between processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloven.enclave.handover import WAYS, Giver, Taker, Way, opened
from cloven.enclave.pipe import HEAD, EndedError, Failure, KeyAwaited, heard, tell
from cloven.errors import ClovenError

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_is_taken_whatever_was_there_before(way: Way, tmp_path: Path) -> None:
    @given(SHAPES, st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def check(shapes: list[tuple[int, ...]], counts: list[int]) -> None:
        end = opened(way, tmp_path)
        giver, taker = Giver(way, end), Taker(way, end)
        random = np.random.default_rng(0)
        for images in counts:
            tensors = [random.random((images, *shape), np.float32) for shape in shapes]
            taken = taker.take(shapes, images, giver.give(tensors))
            assert all(np.array_equal(a, b) for a, b in zip(tensors, taken, strict=True))
            assert [t.shape for t in taken] == [t.shape for t in tensors]
        if end >= 0:
            os.close(end)

    check()
    assert list(tmp_path.iterdir()) == []  # a file of a hand-over has no name


@pytest.mark.parametrize("way", WAYS)
def test_too_little_is_an_error(way: Way, tmp_path: Path) -> None:
    end = opened(way, tmp_path)
    told = Giver(way, end).give([np.zeros((1, 4), np.float32)])

    with pytest.raises(ClovenError, match="16 bytes were handed over; expected 32"):
        Taker(way, end).take([(4,)], 2, told)
    if end >= 0:
        os.close(end)


def test_a_file_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match=r"cannot create a hand-over file in .*; use memory or pipe"):
        opened("file", tmp_path / "nowhere")


@given(st.lists(st.text()), st.binary(max_size=5000))
def test_a_message_is_received_as_it_was_sent(limits: list[str], content: bytes) -> None:
    out_of, into = os.pipe()
    message = KeyAwaited(limits=tuple(limits))
    tell(into, message, content)

    found, behind = heard(out_of, KeyAwaited, 1)
    assert found == message
    assert bytes(behind) == content
    os.close(out_of)
    with pytest.raises(EndedError):
        tell(into, message)
    os.close(into)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (HEAD.pack(2**31, 0), "announced a message of 2147483648 and 0 bytes; expected at most"),
        (HEAD.pack(0, 2**40), "announced a message of 0 and 1099511627776 bytes; expected at most"),
        (HEAD.pack(3, 0) + b"{x}", "is not valid JSON"),
        (HEAD.pack(2, 0) + b"[]", "contains a list; expected a JSON object"),
        (HEAD.pack(2, 0) + b"{}", "a message from the other process: limits: Field required"),
        (HEAD.pack(2, 9) + b"{}short", "has ended"),
        (b"", "has ended"),
    ],
)
def test_malformed_messages_are_refused(words: bytes, sentence: str) -> None:
    out_of, into = os.pipe()
    os.write(into, words)
    os.close(into)

    with pytest.raises(ClovenError, match=sentence):
        heard(out_of, KeyAwaited)
    os.close(out_of)


def test_what_the_other_process_reports_is_raised() -> None:
    out_of, into = os.pipe()
    tell(into, Failure(problems=("no room", "no key")))

    with pytest.raises(ClovenError) as caught:
        heard(out_of, KeyAwaited)
    assert caught.value.problems == ("no room", "no key")
    os.close(into)
    os.close(out_of)


def test_silence_has_an_end() -> None:
    out_of, into = os.pipe()
    with pytest.raises(ClovenError, match=r"did not send a message within 0\.01 s"):
        heard(out_of, KeyAwaited, 0.01)
    os.close(into)
    os.close(out_of)
