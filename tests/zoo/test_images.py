"""Images: the record, its hashes, the split and subsets that are not random."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.zoo.images import Images, split, spread, with_mirrored

PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)


def numbered(labels: list[int] | None = None, *, count: int = 0, classes: int = 10) -> Images:
    """Images of 2 x 2 pixels that all differ: the pixels spell the index."""
    count = count if labels is None else len(labels)
    pixels = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 1, 2, 2)
    names = tuple(f"class{i}" for i in range(classes))
    sources = tuple(f"image{i}" for i in range(count))
    if labels is None:
        return Images("numbered", pixels, None, (), sources)
    return Images("numbered", pixels, np.array(labels, dtype=np.int64), names, sources)


def indices(images: Images) -> list[int]:
    return [int(source.removeprefix("image")) for source in images.sources]


class TestRecord:
    def test_take(self) -> None:
        """Pixels, labels and sources stay together, in the requested order."""
        taken = numbered([3, 1, 4, 1]).take([2, 0])

        assert taken.sources == ("image2", "image0")
        assert taken.labels is not None
        assert taken.labels.tolist() == [4, 3]
        assert taken.pixels[:, 0, 0, 0].tolist() == [2, 0]

    def test_take_nothing(self) -> None:
        """No index gives an empty set of the same kind."""
        assert len(numbered([1, 2]).take([])) == 0

    def test_take_unlabelled(self) -> None:
        """A subset of unlabelled images is unlabelled."""
        assert numbered(count=3).take([1]).labels is None

    def test_tensor(self) -> None:
        """Values from 0 to 255 become float32 from 0 to 1."""
        pixels = np.array([0, 51, 255, 128], np.uint8).reshape(1, 1, 2, 2)
        tensor = Images("two", pixels, None, (), ("a",)).tensor()

        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.flatten(), torch.tensor([0, 51, 255, 128]) / 255)

    def test_pixels_are_read_only(self) -> None:
        """A record cannot change after it was hashed; the caller's own array stays writable."""
        pixels = np.zeros((1, 1, 2, 2), np.uint8)
        images = Images("zeros", pixels, np.zeros(1, np.int64), ("zero",), ("a",))
        assert images.labels is not None

        with pytest.raises(ValueError, match="read-only"):
            images.pixels[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            images.labels[0] = 1
        pixels[0] = 1

    def test_all_problems_at_once(self) -> None:
        """Arrays of the wrong kind and lists of the wrong length are reported together."""
        with pytest.raises(ClovenError) as caught:
            Images("bad", np.zeros((2, 3, 3)), np.zeros(3, np.int64), ("a",), ("one",))  # type: ignore[arg-type]

        assert caught.value.problems == (
            "pixels: got float64 (2, 3, 3), expected uint8 (n, channels, height, width)",
            "sources: got 1 for 2 images, expected one each",
            "labels: got int64 (3,), expected int64 (2,)",
        )

    def test_labels_outside_the_classes(self) -> None:
        """A label is an index into the classes."""
        with pytest.raises(ClovenError, match="labels: got 0 to 3, expected 0 to 2"):
            numbered([0, 3], classes=3)

    def test_classes_without_labels(self) -> None:
        """Classes without labels are an error."""
        with pytest.raises(ClovenError, match="labels: got none, but 2 classes"):
            Images("bad", np.zeros((1, 1, 2, 2), np.uint8), None, ("a", "b"), ("one",))


class TestHashes:
    def test_digest_is_of_shape_and_pixels(self) -> None:
        """The same bytes in another shape are another image."""
        flat = np.arange(8, dtype=np.uint8)
        tall, wide = (Images("x", flat.reshape(1, 1, *s), None, (), ("a",)) for s in ((4, 2), (2, 4)))

        assert tall.digests() == (hashlib.sha256(b"(1, 4, 2)" + flat.tobytes()).hexdigest(),)
        assert tall.digests() != wide.digests()

    def test_digests_are_computed_once(self) -> None:
        """A second call returns the same object."""
        images = numbered(count=3)

        assert images.digests() is images.digests()

    def test_fingerprint_depends_on_pixels_labels_and_order(self) -> None:
        """Equal sets agree; other pixels, labels, order, or the lack of labels, do not."""
        images = numbered([0, 1, 2])
        others = [numbered([0, 1, 1]), numbered(count=3), images.take([1, 0, 2]), images.take([0, 1])]

        assert images.fingerprint() == numbered([0, 1, 2]).fingerprint()
        assert len({images.fingerprint(), *(other.fingerprint() for other in others)}) == 5

    def test_fingerprint_ignores_where_images_came_from(self) -> None:
        """The same images under another name are the same data."""
        images = numbered([0, 1])
        moved = Images("moved", images.pixels, images.labels, images.classes, ("x", "y"))

        assert images.fingerprint() == moved.fingerprint()

    def test_fingerprint_is_stable(self) -> None:
        """A known value: caches and stores are keyed by it."""
        expected = hashlib.sha256(b"(1, 1, 2, 2)" + bytes(4) + b"labels" + bytes(8)).hexdigest()

        assert numbered([0]).fingerprint() == expected


class TestSplit:
    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (70_000, (56_000, 7_000, 7_000)),
            (60_000, (48_000, 6_000, 6_000)),
            (8_189, (6_551, 819, 819)),
            (1_797, (1_437, 180, 180)),
            (10, (8, 1, 1)),
            (5, (4, 1, 0)),
            (1, (1, 0, 0)),
            (0, (0, 0, 0)),
        ],
    )
    def test_sizes(self, count: int, expected: tuple[int, int, int]) -> None:
        """The paper's sizes, and the largest remainder if the count is not a multiple of ten."""
        train, validation, test = split(numbered([i % 10 for i in range(count)]), seed=0)

        assert (len(train), len(validation), len(test)) == expected

    @PROPERTY
    @given(
        labels=st.lists(st.integers(0, 4), max_size=80),
        seed=st.integers(0, 3),
        parts=st.sampled_from([(0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0.0), (0.0, 0.0, 1.0)]),
        labelled=st.booleans(),
    )
    def test_disjoint_complete_stratified(
        self, labels: list[int], seed: int, parts: tuple[float, float, float], labelled: bool
    ) -> None:
        """Every image is in exactly one part, and every part has its share of every class, to within two."""
        images = numbered(labels) if labelled else numbered(count=len(labels))
        pieces = split(images, seed=seed, parts=parts)

        assert sorted(i for piece in pieces for i in indices(piece)) == list(range(len(labels)))
        for piece, part in zip(pieces, parts, strict=True):
            assert abs(len(piece) - part * len(labels)) < 1
            counts = Counter(labels[i] for i in indices(piece))
            for label, total in Counter(labels).items():
                assert not labelled or abs(counts[label] - part * total) < 2

    def test_stratified(self) -> None:
        """Every part gets its share of classes of different sizes."""
        labels = np.repeat([0, 1, 2], [1000, 200, 50]).tolist()
        for seed in range(5):
            for part, share in zip(split(numbered(labels), seed=seed), (0.8, 0.1, 0.1), strict=True):
                assert part.labels is not None
                assert np.abs(np.bincount(part.labels) - share * np.array([1000, 200, 50])).max() < 2

    def test_seed(self) -> None:
        """One seed gives one split, another seed another."""
        images = numbered([i % 3 for i in range(60)])
        once, again, other = (split(images, seed=seed) for seed in (1, 1, 2))

        assert [p.sources for p in once] == [p.sources for p in again]
        assert sorted(once[2].sources) != sorted(other[2].sources)

    def test_prefix_is_a_sample(self) -> None:
        """Images that were sorted by class are not sorted in the parts."""
        train, _, test = split(numbered([i // 100 for i in range(1000)]), seed=0)

        for part, first in ((train, 50), (test, 50)):
            assert part.labels is not None
            assert len(set(part.labels[:first].tolist())) == 10

    @pytest.mark.parametrize("parts", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.5, 0.5)])
    def test_parts_must_add_up(self, parts: tuple[float, float, float]) -> None:
        """Invalid shares are refused."""
        with pytest.raises(ClovenError, match="expected three shares of at least 0 that add up to 1"):
            split(numbered(count=4), seed=0, parts=parts)


class TestSpread:
    def test_unlabelled(self) -> None:
        """Unlabelled images are spread evenly over the order."""
        assert spread(None, 10, 5).tolist() == [1, 3, 5, 7, 9]

    def test_interleaved(self) -> None:
        """Classes alternate, and the images of each are spread over the whole class."""
        labels = np.repeat([0, 1], 4)

        assert spread(labels, 8, 4).tolist() == [1, 5, 3, 7]

    def test_fewer_than_classes(self) -> None:
        """With less than one image for each class, the classes are spread too."""
        assert spread(np.arange(100), 100, 4).tolist() == [12, 37, 62, 87]

    @pytest.mark.parametrize("limit", [None, 6, 7])
    def test_no_limit(self, limit: int | None) -> None:
        """Without a limit, or with one that is not reached, all images are returned in order."""
        assert spread(np.array([1, 0, 1, 0, 1, 0]), 6, limit).tolist() == [0, 1, 2, 3, 4, 5]

    @PROPERTY
    @given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), limit=st.integers(1, 60))
    def test_shares(self, labels: list[int], limit: int) -> None:
        """The requested number of images, none twice, with each class's share to within one."""
        kept = spread(np.array(labels), len(labels), limit).tolist()

        assert len(set(kept)) == len(kept) == min(limit, len(labels))
        counts = Counter(labels[i] for i in kept)
        for label, total in Counter(labels).items():
            assert abs(counts[label] - total * len(kept) / len(labels)) <= 1


def test_mirror_images_stand_behind_their_own_and_are_named() -> None:
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 1, 3, 4)
    pixels = np.concatenate([pixels, np.full((1, 1, 3, 4), 7, np.uint8)])  # the last one is its own mirror image
    both = with_mirrored(Images("x", pixels, np.array([0, 1, 0]), ("a", "b"), ("p", "q", "r")))

    assert both.sources == ("p", "p mirrored", "q", "q mirrored", "r")
    assert both.labels is not None
    assert both.labels.tolist() == [0, 0, 1, 1, 0]
    assert (both.pixels[1] == pixels[0][..., ::-1]).all()
    assert (both.pixels[2] == pixels[1]).all()
    assert len(set(both.digests())) == 5
