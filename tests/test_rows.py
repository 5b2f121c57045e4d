"""Arrays in files, of which rows are read: the same numbers as arrays in memory."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cloven.errors import ClovenError
from cloven.row_files import StoredArray, stored, stored_tensors, temporary
from cloven.rows import Concatenated, StoredRows, all_rows, chunks, mean_row, permuted

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), np.uint8)
IMAGES = torch.from_numpy(PIXELS).float() / 255


@pytest.fixture
def images(tmp_path: Path) -> StoredRows:
    file = temporary(PIXELS.shape, np.uint8, tmp_path / "cache")
    file.write(0, PIXELS[:20])
    file.write(20, PIXELS[20:])
    return StoredRows(stored(file))


ORDERS: dict[str, Callable[[], NDArray[np.int64]]] = {
    "runs": lambda: np.array([3, 4, 5, 20, 21, 0]),
    "random": lambda: np.random.default_rng(1).permutation(50),
    "repeated": lambda: np.array([7, 7, 8, 7]),
    "none": lambda: np.array([], np.int64),
}


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_those_of_the_array_in_any_order(images: StoredRows, order: str) -> None:
    index = ORDERS[order]()

    assert np.array_equal(images.array[index], PIXELS[index])
    assert np.array_equal(np.asarray(images.array.take(index)), PIXELS[index])
    assert torch.equal(images[torch.from_numpy(index)], IMAGES[index])


def test_pixels_are_read_as_numbers_from_0_to_1(images: StoredRows) -> None:
    assert (images.shape, images.dtype, len(images)) == (IMAGES.shape, torch.float32, 50)
    assert torch.equal(all_rows(images), IMAGES)
    assert torch.equal(all_rows(images[10:20]), IMAGES[10:20])
    assert torch.equal(torch.cat(list(chunks(images, 7))), IMAGES)
    assert torch.equal(all_rows(permuted(images, torch.arange(50).flip(0))), IMAGES.flip(0))
    assert torch.allclose(mean_row(images), IMAGES.mean(0))


def test_sets_one_after_the_other_are_one_set(images: StoredRows) -> None:
    joined = Concatenated([images[:15], IMAGES[15:30], images[30:]])

    assert joined.shape == IMAGES.shape
    assert torch.equal(all_rows(joined), IMAGES)


def test_a_temporary_file_has_no_name_and_is_closed_with_its_last_user(tmp_path: Path) -> None:
    file = temporary((3, 2), np.uint8, tmp_path)
    descriptor, rows = file.file.descriptor, StoredRows(stored(file))[1:]
    del file
    gc.collect()

    assert list(tmp_path.iterdir()) == []
    assert all_rows(rows).tolist() == [[0, 0], [0, 0]]
    del rows
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_array_in_a_temporary_file_is_sent_to_another_process_as_a_whole(images: StoredRows) -> None:
    assert np.array_equal(pickle.loads(pickle.dumps(images[3:9].array)), PIXELS[3:9])


def test_rows_of_safetensors_are_read_without_the_rest(tmp_path: Path) -> None:
    message = np.arange(24, dtype=np.float32).reshape(4, 6)
    save_file({"0": message, "image": PIXELS, "own": np.array([True, False])}, tmp_path / "a", {"link": "x"})

    metadata, arrays = stored_tensors(tmp_path / "a")
    part = arrays["0"].file.part(2, (1, 3))

    assert metadata == {"link": "x"}
    assert np.array_equal(np.asarray(arrays["image"]), PIXELS)
    assert np.asarray(arrays["own"]).tolist() == [True, False]
    assert np.asarray(StoredArray(part, np.array([3, 1]))).tolist() == [[[20, 21, 22]], [[8, 9, 10]]]
    assert np.array_equal(pickle.loads(pickle.dumps(arrays["0"]))[1:3], message[1:3])


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    save_file({"image": PIXELS}, tmp_path / "a")
    image = stored_tensors(tmp_path / "a")[1]["image"]
    os.truncate(tmp_path / "a", 200)

    with pytest.raises(ClovenError, match="a became shorter while it was read"):
        image[:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no tensors at all", "as safetensors"),
        (b"", "as safetensors"),
        ((2**40).to_bytes(8, "little") + b"{}", "as safetensors"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(ClovenError, match=says):
        stored_tensors(tmp_path / "a")


def test_a_tensor_without_rows_is_refused(tmp_path: Path) -> None:
    save_file({"input": np.array(3)}, tmp_path / "a")

    with pytest.raises(ClovenError, match="'input' is I64 of shape"):
        stored_tensors(tmp_path / "a")


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(ClovenError, match=r"cannot keep 3,000 bytes in .*; .*CLOVEN_CACHE names another folder"):
        temporary(PIXELS.shape, np.uint8, tmp_path)
