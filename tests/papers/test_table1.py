"""Table 1 of Mehrafrooz et al. (2025) beside data sets on disk, and the sizes of the split."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cloven.errors import ClovenError
from cloven.papers.s1.table1 import TABLE_1, DataSetRow, describe
from cloven.zoo.cifar import BATCHES
from cloven.zoo.datasets import load
from cloven.zoo.originals import originals, split_sizes
from tests.zoo.test_datasets import write_cifar, write_mnist
from tests.zoo.test_flowers import write_flowers


def row(spec: str) -> DataSetRow:
    return describe(*originals(spec))


class TestPrinted:
    def test_three_rows(self) -> None:
        """The rows are those printed in the paper."""
        rows = [(p.title, p.images, p.size, p.classes, p.colours) for p in TABLE_1.values()]

        assert rows == [
            ("MNIST", 70_000, "28x28", 10, "grey"),
            ("CIFAR-10", 60_000, "32x32", 10, "colour"),
            ("Oxford Flowers", 8_189, "variable", 102, "colour"),
        ]

    @pytest.mark.parametrize(
        ("count", "sizes"),
        [(70_000, (56_000, 7_000, 7_000)), (60_000, (48_000, 6_000, 6_000)), (8_189, (6_551, 819, 819))],
    )
    def test_split(self, count: int, sizes: tuple[int, int, int]) -> None:
        """The split has 80, 10 and 10 % of the pooled images."""
        assert split_sizes(count) == sizes

    def test_whole_sets_agree(self) -> None:
        """The three sets as distributed agree with the paper."""
        flowers = {(3, 500, 667), (3, 752, 500)}
        for name, count, shapes, classes in (
            ("mnist", 70_000, {(1, 28, 28)}, 10),
            ("cifar10", 60_000, {(3, 32, 32)}, 10),
            ("flowers102", 8_189, flowers, 102),
        ):
            found = describe(name, count, shapes, classes, split_sizes(count))

            assert found.agrees is True
            assert found.differs == ()

    def test_everything_that_differs(self) -> None:
        """Each difference is listed with both values."""
        found = describe("mnist", 60_000, {(3, 32, 32), (1, 28, 28)}, 9, (1, 1, 1))

        assert found.agrees is False
        assert found.differs == (
            "images: 60,000 (paper: 70,000)",
            "size: variable (paper: 28x28)",
            "classes: 9 (paper: 10)",
            "colours: colour (paper: grey)",
        )


class TestFromFiles:
    def test_flowers(self, tmp_path: Path) -> None:
        """Six flowers of three classes are described from their headers."""
        found = row(f"flowers102:{write_flowers(tmp_path)}")

        assert (found.name, found.images, found.size, found.classes) == ("flowers102", 6, "variable", 3)
        assert found.differs == ("images: 6 (paper: 8,189)", "classes: 3 (paper: 102)")

    def test_headers_are_enough(self, tmp_path: Path) -> None:
        """Pixels are not decoded: a picture that is truncated after its header is still described."""
        file = write_flowers(tmp_path) / "jpg" / "image_00001.jpg"
        Image.effect_noise((200, 100), 50).save(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ClovenError, match="cannot be decoded"):
            load(f"flowers102:{tmp_path}", shape=(3, 8, 8))

        assert row(f"flowers102:{tmp_path}").images == 6

    def test_mnist_and_cifar(self, tmp_path: Path) -> None:
        """Made-up sets in the real layouts differ only in the number of images."""
        write_mnist(tmp_path / "mnist")
        write_cifar(tmp_path / "cifar10", *(f"{name}.bin" for name in BATCHES))

        assert row(f"mnist:{tmp_path}/mnist").differs == ("images: 30 (paper: 70,000)",)
        assert row(f"cifar10:{tmp_path}/cifar10").differs == ("images: 60 (paper: 60,000)",)

    @pytest.mark.parametrize(("mode", "colours"), [("L", "grey"), ("RGB", "colour")])
    def test_folder(self, tmp_path: Path, mode: str, colours: str) -> None:
        """A set that the paper does not use has no printed row; sizes are width x height."""
        for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
            (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (6, 4)).save(tmp_path / "pets" / name)
        found = row(f"folder:{tmp_path}/pets")

        assert (found.name, found.images, found.size, found.classes) == ("folder:pets", 3, "6x4", 2)
        assert (found.colours, found.printed, found.agrees, found.differs) == (colours, None, None, ())
        assert found.split == (3, 0, 0)

    def test_unlabelled(self, tmp_path: Path) -> None:
        """Pictures outside of sub-folders have no classes; different sizes make the size variable."""
        for name, size in (("a.png", (4, 4)), ("b.png", (5, 4))):
            Image.new("L", size).save(tmp_path / name)
        found = row(f"folder:{tmp_path}")

        assert (found.classes, found.size) == (0, "variable")

    def test_json(self, tmp_path: Path) -> None:
        """A row contains plain values, the paper's row and the verdict."""
        assert row(f"mnist:{write_mnist(tmp_path)}").model_dump(mode="json") == {
            "name": "mnist",
            "images": 30,
            "size": "28x28",
            "classes": 10,
            "colours": "grey",
            "split": [24, 3, 3],
            "printed": {"title": "MNIST", "images": 70_000, "size": "28x28", "classes": 10, "colours": "grey"},
            "differs": ["images: 30 (paper: 70,000)"],
            "agrees": False,
        }


@pytest.mark.slow
class TestRealData:
    def test_mnist(self, data: str) -> None:
        """The whole set agrees with the paper, and is split as in the paper."""
        found = row(f"mnist:{data}")

        assert found.agrees is True
        assert found.split == (56_000, 7_000, 7_000)

    def test_cifar(self, data: str) -> None:
        """The whole set agrees with the paper; with missing batches only the number of images differs."""
        found = row(f"cifar10:{data}")
        short = () if found.images == 60_000 else (f"images: {found.images:,} (paper: 60,000)",)

        assert found.differs == short
        assert found.images % 10_000 == 0
        assert sum(found.split) == found.images
