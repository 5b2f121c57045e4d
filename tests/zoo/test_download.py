"""Downloads of data sets from a stand-in for the web: the files' places, the extracted members, the messages."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from http.client import IncompleteRead
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.zoo import download as module
from cloven.zoo.cifar import BATCHES
from cloven.zoo.datasets import load
from cloven.zoo.download import download
from tests.zoo.test_datasets import COUNTS, write_cifar, write_mnist
from tests.zoo.test_flowers import LABELS, SHAPE, write_flowers

KINDS = ("cifar10", "flowers102", "mnist")
IMAGES = {"cifar10": 24, "flowers102": len(LABELS), "mnist": sum(COUNTS.values())}


def packed(file: Path, content: Mapping[str, bytes], *odd: tarfile.TarInfo) -> None:
    """A gzipped tar file of these members, and of odd ones without content."""
    with tarfile.open(file, "w:gz") as tar:
        for name, body in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        for member in odd:
            tar.addfile(member)


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def cifar_members() -> dict[str, bytes]:
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    names = (*BATCHES, "batches.meta")
    return {f"cifar-10-batches-py/{name}": pickle.dumps(batch, 2) for name in names}


class Web:
    """A folder that stands for the web; asked for a file, it copies the one of the same name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.sums = folder, [], {}  # type: ignore[var-annotated]
        write_mnist(folder, zipped=True)
        packed(folder / "cifar-10-python.tar.gz", cifar_members())
        flowers = write_flowers(folder / "flowers")
        packed(
            folder / "102flowers.tgz", {f"jpg/{file.name}": file.read_bytes() for file in flowers.glob("jpg/*.jpg")}
        )
        (flowers / "imagelabels.mat").rename(folder / "imagelabels.mat")
        (folder / "setid.mat").touch()

    def download_url(self, url: str, root: str, filename: str, md5: str) -> None:
        self.asked.append(url)
        self.sums[filename] = md5
        Path(root, filename).write_bytes((self.folder / filename).read_bytes())


@pytest.fixture
def utils() -> Any:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from cloven.zoo.libraries import torchvision

    return torchvision().datasets.utils


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utils: Any) -> Web:
    made = Web(tmp_path / "web")
    monkeypatch.setattr(utils, "download_url", made.download_url)
    return made


def said(spec: str) -> str:
    with pytest.raises(ClovenError) as caught:
        download(spec)
    return str(caught.value)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestPlaces:
    @pytest.mark.parametrize("kind", KINDS)
    def test_load_finds_it(self, kind: str, web: Web, tmp_path: Path) -> None:
        """A download into a new folder can be loaded."""
        spec = f"{kind}:{tmp_path}/new/data"
        download(spec)

        assert len(load(spec, shape=SHAPE)) == IMAGES[kind]
        assert web.asked

    @pytest.mark.parametrize("kind", KINDS)
    def test_once(self, kind: str, web: Web, tmp_path: Path) -> None:
        """Existing files are not downloaded again."""
        spec = f"{kind}:{tmp_path}/data"
        download(spec)
        web.asked.clear()
        download(spec)

        assert web.asked == []

    def test_as_torchvision_lays_it_out(self, web: Web, tmp_path: Path) -> None:
        """One folder for all three, with nothing left over of archives or unfinished work."""
        for kind in KINDS:
            download(f"{kind}:{tmp_path}/data")

        assert files(tmp_path / "data") == sorted(
            [
                *(f"MNIST/raw/{name}.gz" for name in module.IDX),
                *(f"cifar-10-batches-py/{name}" for name in (*BATCHES, "batches.meta")),
                *(f"flowers-102/jpg/image_{i:05}.jpg" for i in range(1, 7)),
                "flowers-102/imagelabels.mat",
                "flowers-102/setid.mat",
            ]
        )

    def test_not_needed(self, web: Web, tmp_path: Path) -> None:
        """Data sets in other layouts that load accepts are not downloaded again."""
        write_mnist(tmp_path / "a" / "raw")
        write_cifar(tmp_path / "b", *(f"{name}.bin" for name in BATCHES))
        write_flowers(tmp_path / "c")
        for spec in ("mnist:{}/a", "cifar10:{}/b", "flowers102:{}/c"):
            download(spec.format(tmp_path))

        assert web.asked == []

    def test_completed(self, web: Web, tmp_path: Path) -> None:
        """An incomplete data set is completed in its own place."""
        write_mnist(tmp_path / "a")
        (tmp_path / "a" / "t10k-labels-idx1-ubyte").unlink()
        (write_flowers(tmp_path / "b") / "jpg" / "image_00003.jpg").unlink()
        for spec, count in ((f"mnist:{tmp_path}/a", 30), (f"flowers102:{tmp_path}/b", 6)):
            download(spec)

            assert len(load(spec, shape=SHAPE)) == count

    def test_hidden_by_an_unfinished_set(self, web: Web, tmp_path: Path) -> None:
        """Nothing is downloaded if existing binary batches would be read instead."""
        place = write_cifar(tmp_path / "cifar-10-batches-bin", "data_batch_1.bin", "test_batch.bin")

        assert said(f"cifar10:{tmp_path}") == (
            f"{place}: has 2 of CIFAR-10's 6 batches, which would be read instead of the downloaded ones; "
            "remove them, complete them or give another folder"
        )
        assert web.asked == []

    def test_still_amiss(self, web: Web, tmp_path: Path) -> None:
        """Problems that remain after a download are reported."""
        jpg = write_flowers(tmp_path) / "jpg"
        (jpg / "image_00077.jpg").touch()

        assert said(f"flowers102:{tmp_path}").splitlines() == [
            "after the download the data set is still incomplete:",
            f"{tmp_path}: imagelabels.mat has 6 labels, but jpg has 7 images; fetch both again",
            f"{jpg}/image_00077.jpg: has no label; remove it",
        ]


class TestTrust:
    def test_sums(self, web: Web, utils: Any, tmp_path: Path) -> None:
        """Every file is asked for with torchvision's sum."""
        from cloven.zoo.libraries import torchvision

        for kind in KINDS:
            download(f"{kind}:{tmp_path}/data")
        own = torchvision().datasets

        assert web.sums == {
            **dict(own.MNIST.resources),
            own.CIFAR10.filename: own.CIFAR10.tgz_md5,
            **dict(own.Flowers102._file_dict.values()),
        }
        assert own.Flowers102._download_url_prefix == module.FLOWERS

    def test_nothing_is_constructed(self, web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The classes of torchvision would unpickle; they are not made, and pickle is not asked."""
        from cloven.zoo.libraries import torchvision

        def never(*_: Any, **__: Any) -> None:
            raise AssertionError

        for name in ("MNIST", "CIFAR10", "Flowers102"):
            monkeypatch.setattr(getattr(torchvision().datasets, name), "__init__", never)
        monkeypatch.setattr(pickle, "load", never)
        for kind in KINDS:
            download(f"{kind}:{tmp_path}/data")

        assert len(files(tmp_path / "data")) == 19

    def test_members_that_lie_elsewhere(self, web: Web, tmp_path: Path) -> None:
        """Only regular files with the expected names are extracted from an archive, without paths and links."""
        inside = "cifar-10-batches-py"
        packed(
            web.folder / "cifar-10-python.tar.gz",
            {
                "../evil": b"",
                f"/{tmp_path}/absolute": b"",
                f"{inside}/../../data_batch_1": b"",
                f"{inside}/run.sh": b"",
                "data_batch_1": b"",
                **cifar_members(),
            },
            link(f"{inside}/batches.meta", "/etc/passwd"),
            link(f"{inside}/test_batch", f"{inside}/run.sh", tarfile.LNKTYPE),
            link("cifar-10-batches-py", str(tmp_path)),
        )
        before = set(files(tmp_path))
        download(f"cifar10:{tmp_path}/data")

        assert set(files(tmp_path)) - before == {f"data/{name}" for name in cifar_members()}
        assert not any(path.is_symlink() for path in tmp_path.rglob("*"))

    def test_names_with_a_dot(self, web: Web, tmp_path: Path) -> None:
        """Names in archives of the working folder begin with a dot."""
        members = {f"./{name}": body for name, body in cifar_members().items()}
        packed(web.folder / "cifar-10-python.tar.gz", members)
        download(f"cifar10:{tmp_path}/data")

        assert len(load(f"cifar10:{tmp_path}/data")) == 24

    @pytest.mark.parametrize("damage", [lambda _: b"no archive", lambda whole: whole[:200]], ids=["none", "cut"])
    def test_damaged_archive(self, web: Web, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        """No file of a truncated archive is moved into place."""
        archive = web.folder / "cifar-10-python.tar.gz"
        archive.write_bytes(damage(archive.read_bytes()))

        assert said(f"cifar10:{tmp_path}/data").startswith("cifar-10-python.tar.gz cannot be unpacked (")
        assert files(tmp_path / "data") == []

    def test_a_bomb(self, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An archive that unpacks to more than any of these sets is left before that is written."""
        monkeypatch.setattr(module, "LARGEST", 1000)

        assert said(f"cifar10:{tmp_path}/data").startswith(
            "cifar-10-python.tar.gz unpacks to more than 1,000 bytes"
        )
        assert files(tmp_path / "data") == []


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            URLError("no route"),
            TimeoutError("timed out"),
            RuntimeError("File not found or corrupted."),
            IncompleteRead(b""),
        ],
    )
    def test_network(self, error: Exception, utils: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The error says what failed, why, and what to download by hand; no partial file is left."""

        def fail(url: str, root: str, filename: str, md5: str) -> None:
            Path(root, filename).write_bytes(b"half")
            raise error

        monkeypatch.setattr(utils, "download_url", fail)
        why, what = said(f"flowers102:{tmp_path}/data").splitlines()
        url = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"

        assert why == f"102flowers.tgz cannot be downloaded ({url}102flowers.tgz: {error})"
        assert what == (
            f"Try again later, or fetch {url}102flowers.tgz, {url}imagelabels.mat, {url}setid.mat into "
            f"{tmp_path}/data/flowers-102 by hand and unpack the archive there"
        )
        assert files(tmp_path / "data") == []

    def test_mirrors(self, web: Web, utils: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """If a mirror fails, the next one is tried; if all fail, the error names each."""

        def first_is_down(url: str, root: str, filename: str, md5: str) -> None:
            if "amazonaws" in url:
                raise URLError("down")
            web.download_url(url, root, filename, md5)

        monkeypatch.setattr(utils, "download_url", first_is_down)
        download(f"mnist:{tmp_path}/data")

        assert len(web.asked) == 4
        assert len(load(f"mnist:{tmp_path}/data")) == 30

    @pytest.mark.parametrize("spec", ["digits", "photos", "folder:x"])
    def test_kinds_that_cannot(self, spec: str) -> None:
        """The kinds that can be downloaded are named."""
        kind = spec.partition(":")[0]

        assert said(spec) == (f"{spec}: {kind} cannot be downloaded; those that can: cifar10, flowers102, mnist")

    def test_bad_specs(self) -> None:
        """Specs are parsed as by load."""
        assert said("mnist") == "mnist: mnist needs a folder, e.g. mnist:data/mnist"
        assert said("minst:x").startswith("unknown data set 'minst'; did you mean mnist?")

    def test_without_torchvision(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The extra that brings it is named, and the folder is not made."""

        def absent() -> Any:
            from cloven.errors import require

            raise require("models", ImportError(name="torchvision"))

        monkeypatch.setattr(module, "torchvision", absent)

        assert said(f"mnist:{tmp_path}/data") == (
            "torchvision is not installed; it comes with an extra: pip install 'cloven[models]'"
        )
        assert not (tmp_path / "data").exists()

    def test_no_folder(self, web: Web, tmp_path: Path) -> None:
        """A file where the folder should be."""
        (tmp_path / "data").write_text("")

        message = said(f"mnist:{tmp_path}/data")

        assert message.startswith(f"{tmp_path}/data/MNIST/raw: cannot be written (")
        assert message.endswith("give another folder")
