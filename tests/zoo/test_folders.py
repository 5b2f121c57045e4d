"""Folders of pictures: the files that are read, their conversion, and the errors of unusable files."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cloven.errors import ClovenError
from cloven.zoo import folders
from cloven.zoo.datasets import load

PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)
HINT = "is not a picture that can be read; remove it or replace it"


def picture(folder: Path, name: str, *, size: tuple[int, int] = (4, 4), mode: str = "RGB", value: int = 7) -> Path:
    """A picture of one value in every channel; size is width, height."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * len(Image.new(mode, (1, 1)).getbands())).save(file)
    return file


def png(width: int, height: int) -> bytes:
    """The head of a PNG that announces this size, and almost nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def said(folder: Path, **options: Any) -> str:
    """Return the error message of loading."""
    with pytest.raises(ClovenError) as caught:
        load(f"folder:{folder}", **options)
    return str(caught.value)


class TestLayout:
    @pytest.mark.parametrize(
        "suffix",
        ".jpg .JPEG .jpe .jfif .JFIF .png .apng .bmp .gif .webp .ppm .pnm .tif .tiff .jp2 .j2k .avif".split(),
    )
    def test_formats(self, tmp_path: Path, suffix: str) -> None:
        """The usual formats, whatever the case of their names."""
        picture(tmp_path, f"a{suffix}", value=200)
        images = load(f"folder:{tmp_path}")

        assert images.pixels.shape == (1, 3, 4, 4)
        assert np.abs(images.pixels.astype(int) - 200).max() <= 2

    def test_unlabelled(self, tmp_path: Path) -> None:
        """Pictures directly in the folder come in the order of their names; the set is named by the folder."""
        for value, name in enumerate(["b.png", "a.png", "c.png"]):
            picture(tmp_path / "holiday", name, value=value)
        images = load(f"folder:{tmp_path}/holiday/")

        assert images.name == "folder:holiday"
        assert (images.labels, images.classes) == (None, ())
        assert images.sources == ("a.png", "b.png", "c.png")
        assert images.pixels[:, 0, 0, 0].tolist() == [1, 0, 2]

    def test_labelled(self, tmp_path: Path) -> None:
        """Sub-folders are classes, sorted by name; deeper pictures belong to the class above."""
        for name in ("dog/1.png", "cat/deeper/2.png", "cat/1.png", "ant/1.png"):
            picture(tmp_path, name)
        images = load(f"folder:{tmp_path}")

        assert images.classes == ("ant", "cat", "dog")
        assert images.sources == ("ant/1.png", "cat/1.png", "cat/deeper/2.png", "dog/1.png")
        assert images.labels is not None
        assert images.labels.tolist() == [0, 1, 1, 2]

    def test_name_is_never_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder that is given as a dot also has a name."""
        picture(tmp_path / "here", "a.png")
        monkeypatch.chdir(tmp_path / "here")

        assert load("folder:.").name == "folder:here"

    def test_hidden_files_are_passed_over(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Hidden files and hidden folders do not count."""
        for name in ("cat/1.png", "cat/.2.png", ".git/3.png", "cat/.thumbs/4.png"):
            picture(tmp_path, name)

        assert load(f"folder:{tmp_path}").sources == ("cat/1.png",)
        assert not caplog.messages

    def test_loose_pictures_beside_other_folders(self, tmp_path: Path) -> None:
        """A sub-folder without pictures makes no classes."""
        picture(tmp_path, "a.png")
        (tmp_path / "notes").mkdir()

        assert load(f"folder:{tmp_path}").labels is None

    def test_both_layouts(self, tmp_path: Path) -> None:
        """Pictures and folders of pictures together are ambiguous."""
        picture(tmp_path, "a.png")
        picture(tmp_path, "dog/b.png")
        (tmp_path / "ant").mkdir()

        assert said(tmp_path) == (
            f"{tmp_path}: has both pictures (a.png) and sub-folders of pictures (dog); "
            "expected only one of the two, where sub-folders are classes"
        )

    def test_empty_classes(self, tmp_path: Path) -> None:
        """Classes without pictures are listed, ten at most, since they would shift the labels."""
        picture(tmp_path, "full/b.png")
        for i in range(12):
            (tmp_path / f"empty{i:02}").mkdir()
        lines = said(tmp_path).splitlines()

        assert lines[0] == f"{tmp_path}/empty00: class without pictures; add some or remove it"
        assert lines[10:] == ["... and 2 more"]

    def test_empty(self, tmp_path: Path) -> None:
        """The error for an empty folder says what was expected."""
        message = said(tmp_path)

        assert message.startswith(f"{tmp_path}: looked for pictures (.jpg, .jpeg, .jpe, .jfif, ")
        assert message.endswith("or sub-folders of pictures, one for each class; found nothing")

    def test_wrong_folder(self, tmp_path: Path) -> None:
        """The error for a folder of other files says what was found."""
        (tmp_path / "train.csv").write_text("")
        (tmp_path / "notes").mkdir()

        assert said(tmp_path).endswith("; found notes, train.csv")


class TestSaid:
    """Skipped files and ignored properties are reported in one sentence."""

    def test_other_files_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("cat/1.png", "dog/1.png"):
            picture(tmp_path, name)
        for name in ("labels.csv", "cat/1.HEIC", "cat/2.heic", "cat/raw.cr2", "dog/README", "dog/.hidden.heic"):
            (tmp_path / name).write_text("")
        load(f"folder:{tmp_path}")
        load(f"folder:{tmp_path}")

        assert caplog.messages == [
            f"{tmp_path}: files that are not pictures, or cannot be read here, were skipped "
            "(5: 2 .heic, 1 .csv, 1 .cr2, 1 no suffix)"
        ]

    def test_formats_that_pillow_was_built_without_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture(tmp_path, "a.png")
        picture(tmp_path, "b.avif")
        monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
        folders.readable.cache_clear()
        images = load(f"folder:{tmp_path}")
        folders.readable.cache_clear()

        assert images.sources == ("a.png",)
        assert caplog.messages[0].endswith("(1: 1 .avif)")

    def test_transparency(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As in torchvision, the alpha channel is dropped. An opaque channel is not reported."""
        clear = np.full((4, 4, 4), 200, np.uint8)
        clear[0, 0] = 0
        Image.fromarray(clear).save(tmp_path / "a.png")
        Image.new("P", (4, 4)).save(tmp_path / "b.gif", transparency=0)
        Image.new("RGBA", (4, 4), (9, 9, 9, 255)).save(tmp_path / "c.png")
        pixels = load(f"folder:{tmp_path}").pixels

        assert pixels[0, :, 0, :2].tolist() == [[0, 200]] * 3
        assert caplog.messages == [
            f"{tmp_path}: of 3 pictures, 2 with transparent pixels (transparency is dropped: the colour beneath "
            "shows, often black); as in torchvision's ImageFolder"
        ]

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    def test_orientation(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
        """As in torchvision, a photograph that was taken upside down stays upside down."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (6, 4)).save(tmp_path / f"a{suffix}", exif=exif)
        exif[0x0112] = 1
        Image.new("RGB", (6, 4)).save(tmp_path / f"b{suffix}", exif=exif)

        assert load(f"folder:{tmp_path}").pixels.shape == (2, 3, 4, 6)
        assert caplog.messages == [
            f"{tmp_path}: of 2 pictures, 1 with an orientation in EXIF (not applied); "
            "as in torchvision's ImageFolder"
        ]

    def test_animations(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        frames = [Image.new("L", (4, 4), value) for value in (10, 20, 30)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])

        assert load(f"folder:{tmp_path}", shape=(1, 4, 4)).pixels.tolist() == np.full((1, 1, 4, 4), 10).tolist()
        assert "1 with several frames or pages (the first is read)" in caplog.messages[0]


class TestDivisions:
    """Sub-folders that are splits of a data set are not classes."""

    @pytest.mark.parametrize(
        "names",
        [
            ("train", "val"),
            ("train",),
            ("Training", "Testing"),
            ("TRAIN", "VALID", "TEST"),
            ("val",),
            ("train", "validation", "test"),
            ("train2017", "val2017"),
            ("training_set", "test_set"),
            ("train_images", "test_images"),
            ("trainset", "devset"),
            ("seg_train", "seg_test"),
            ("photos-train", "photos-val"),
        ],
    )
    def test_they_are_refused_with_what_to_give(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for name in names:
            picture(tmp_path, f"{name}/cat/1.png")
        names = tuple(sorted(names))

        assert said(tmp_path) == (
            f"{tmp_path}: contains {', '.join(names)}, which are splits of a data set and not its classes; give "
            f"one of them, such as folder:{tmp_path / names[0]}, or rename them if they are classes"
        )
        assert load(f"folder:{tmp_path / names[0]}").classes == ("cat",)

    def test_beside_other_folders(self, tmp_path: Path) -> None:
        for name in ("train/cat/1.png", "test/cat/1.png", "extra/1.png"):
            picture(tmp_path, name)
        (tmp_path / "annotations").mkdir()

        assert "contains test, train, which are splits of a data set" in said(tmp_path)

    @pytest.mark.parametrize("names", [("bus", "train"), ("contest", "protest"), ("test_tube", "train_station")])
    def test_classes_may_have_such_names(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for name in names:
            picture(tmp_path, f"{name}/1.png")

        assert load(f"folder:{tmp_path}").classes == names

    def test_a_single_folder_of_classes(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        picture(tmp_path, "images/cat/1.png")
        load(f"folder:{tmp_path}")

        assert caplog.messages == [
            f"{tmp_path}: images is the only class; if its own sub-folders are the classes, give "
            f"folder:{tmp_path}/images"
        ]


class TestLinks:
    def test_linked_folders_are_followed(self, tmp_path: Path) -> None:
        """Links are followed as a class, and inside a class."""
        picture(tmp_path / "elsewhere", "deep/1.png")
        picture(tmp_path / "root", "cat/2.png")
        (tmp_path / "root" / "dog").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "deep")

        assert load(f"folder:{tmp_path / 'root'}").sources == ("cat/2.png", "cat/more/1.png", "dog/deep/1.png")

    def test_a_link_that_leads_back_is_skipped_and_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("cat/1.png", "dog/1.png"):
            picture(tmp_path, name)
        for name, target in (("self", "."), ("up", ".."), ("root", "/"), ("twice", "../dog")):
            (tmp_path / "cat" / name).symlink_to(target)
        (tmp_path / "cat" / "again").symlink_to("../dog")

        assert load(f"folder:{tmp_path}").sources == ("cat/1.png", "cat/again/1.png", "dog/1.png")
        assert caplog.messages == [f"{tmp_path}: links to folders that are already read were skipped (4)"]

    def test_links_to_each_other_end(self, tmp_path: Path) -> None:
        """Each folder is read once, or these would be 2^20."""
        picture(tmp_path, "cat/1.png")
        for i in range(20):
            (tmp_path / f"{i}").mkdir()
            for name in "ab":
                (tmp_path / f"{i}" / name).symlink_to(f"../{i + 1}")
        (tmp_path / "20").symlink_to("cat")
        (tmp_path / "cat" / "start").symlink_to("../0")

        assert "cat/1.png" in load(f"folder:{tmp_path}").sources

    def test_pipes_are_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        picture(tmp_path / "cat", "b.png")
        os.mkfifo(tmp_path / "cat" / "a.png")

        assert said(tmp_path / "cat") == f"{tmp_path}/cat/a.png: it is a pipe or a device; expected a regular file"


class TestConversion:
    def test_whole_image_is_resized(self, tmp_path: Path) -> None:
        """Nothing is cropped, whatever the aspect ratio."""
        wide = np.zeros((8, 40, 3), np.uint8)
        wide[:, :20] = 255
        Image.fromarray(wide).save(tmp_path / "a.png")
        pixels = load(f"folder:{tmp_path}", shape=(3, 8, 8)).pixels

        assert pixels.shape == (1, 3, 8, 8)
        assert (pixels[..., :3] == 255).all()
        assert (pixels[..., 5:] == 0).all()

    def test_antialias(self, tmp_path: Path) -> None:
        """A fine chequerboard becomes grey, not black or white."""
        board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "a.png")

        assert np.abs(load(f"folder:{tmp_path}", shape=(1, 8, 8)).pixels.astype(int) - 127).max() <= 3

    def test_grey_is_itu_601(self, tmp_path: Path) -> None:
        """Red, green and blue weigh .299, .587 and .114."""
        Image.fromarray(np.diag([255, 255, 255]).astype(np.uint8)[None].repeat(3, 0)).save(tmp_path / "a.png")

        assert load(f"folder:{tmp_path}", shape=(1, 3, 3)).pixels[0, 0, 0].tolist() == [76, 150, 29]

    @pytest.mark.parametrize(
        ("mode", "expected"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
    )
    def test_own_shape(self, tmp_path: Path, mode: str, expected: int) -> None:
        """Without a shape, pictures keep theirs; they are grey if all of them are."""
        picture(tmp_path, "a.png", size=(6, 5), mode=mode)

        assert load(f"folder:{tmp_path}").pixels.shape == (1, expected, 5, 6)

    def test_grey_among_coloured(self, tmp_path: Path) -> None:
        """Grey pictures among coloured ones become coloured."""
        picture(tmp_path, "a.png", mode="L", value=9)
        picture(tmp_path, "b.png", value=8)
        pixels = load(f"folder:{tmp_path}").pixels

        assert pixels[:, :, 0, 0].tolist() == [[9, 9, 9], [8, 8, 8]]

    def test_several_sizes(self, tmp_path: Path) -> None:
        """Pictures of several sizes need an input size."""
        picture(tmp_path, "a.png", size=(4, 5))
        picture(tmp_path, "b.png", size=(4, 5))
        picture(tmp_path, "c.png", size=(9, 5))

        assert said(tmp_path) == (
            f"{tmp_path}: has pictures of 2 sizes (a.png is 4 x 5, c.png is 9 x 5); "
            "give an input size: channels, height, width"
        )
        assert load(f"folder:{tmp_path}", shape=(1, 4, 4)).pixels.shape == (3, 1, 4, 4)


class TestLimit:
    def test_spread_and_interleaved(self, tmp_path: Path) -> None:
        """Pictures are spread over each class, and classes alternate."""
        for label in "ab":
            for i in range(4):
                picture(tmp_path, f"{label}/{i}.png")

        assert load(f"folder:{tmp_path}", limit=4).sources == ("a/1.png", "b/1.png", "a/3.png", "b/3.png")

    def test_before_decoding(self, tmp_path: Path) -> None:
        """Pictures beyond the limit are not opened."""
        (tmp_path / "0.png").write_bytes(b"no picture")
        picture(tmp_path, "1.png")

        assert load(f"folder:{tmp_path}", limit=1).sources == ("1.png",)

    def test_not_reached(self, tmp_path: Path) -> None:
        """A limit above the number of pictures returns all of them."""
        picture(tmp_path, "a.png")

        assert len(load(f"folder:{tmp_path}", limit=5)) == 1


class TestBadFiles:
    @pytest.mark.parametrize("shape", [None, (3, 4, 4)])
    def test_all_are_told(self, tmp_path: Path, shape: tuple[int, int, int] | None) -> None:
        """Every file that cannot be used is named in one error."""
        picture(tmp_path, "good.png")
        (tmp_path / "text.jpg").write_text("hello")
        (tmp_path / "void.png").write_bytes(b"")
        picture(tmp_path, "dot.png", size=(1, 1))
        picture(tmp_path, "line.png", size=(9, 1))

        assert said(tmp_path, shape=shape).splitlines() == [
            f"{tmp_path}/dot.png: is 1 x 1 pixels, expected at least 2 x 2",
            f"{tmp_path}/line.png: is 9 x 1 pixels, expected at least 2 x 2",
            f"{tmp_path}/text.jpg: {HINT}",
            f"{tmp_path}/void.png: is empty; fetch it again",
        ]

    @pytest.mark.parametrize(
        ("count", "last"), [(10, f"9.png: {HINT}"), (11, "... and 1 more"), (25, "... and 15 more")]
    )
    def test_ten_at_most(self, tmp_path: Path, count: int, last: str) -> None:
        """If many files are unusable, ten are named and the others counted."""
        for i in range(count):
            (tmp_path / f"{i:02}.png").write_bytes(b"?")
        lines = said(tmp_path).splitlines()

        assert len(lines) == min(count, 11)
        assert lines[-1].endswith(last)

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_truncated(self, tmp_path: Path, suffix: str) -> None:
        """The rest of a truncated picture is not filled with grey."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        file = tmp_path / f"a{suffix}"
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

        assert said(tmp_path).startswith(f"{file}: cannot be decoded (")

    def test_pointers_and_pages(self, tmp_path: Path) -> None:
        """A clone without Git LFS or a failed download leaves other files in place of pictures."""
        (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        (tmp_path / "b.jpg").write_text("<html><title>404 Not Found</title></html>")

        assert said(tmp_path).splitlines() == [
            f"{tmp_path}/a.jpg: is a Git LFS pointer, not the file itself; run: git lfs pull",
            f"{tmp_path}/b.jpg: is a web page or an XML document, such as a server's error message; "
            "fetch the file itself",
        ]

    def test_heic(self, tmp_path: Path) -> None:
        """A phone's HEIC picture is recognised, also with the suffix of another format."""
        (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")

        assert said(tmp_path) == (
            f"{tmp_path}/a.jpg: is a HEIC picture, which Pillow reads only with a plugin; convert it to JPEG"
        )

    def test_a_jpeg_of_many_scans(self, tmp_path: Path) -> None:
        """Each scan of a few bytes is decoded over all pixels."""
        content = picture(tmp_path, "a.jpg").read_bytes()
        (tmp_path / "a.jpg").write_bytes(content[:-2] + b"\xff\xda\0\2" * 300 + content[-2:])

        assert said(tmp_path).startswith(f"{tmp_path}/a.jpg: has 301 scans, expected at most 200 at its size")

    def test_what_looks_like_scans_in_a_jpeg_and_is_none(self, tmp_path: Path) -> None:
        """Scans in a separate block (thumbnails) and after the end (motion pictures) are not counted."""
        content = picture(tmp_path, "a.jpg").read_bytes()
        block = b"\xff\xe1\x10\x02" + b"\xff\xda\0\2" * 1024
        (tmp_path / "a.jpg").write_bytes(content[:2] + block + content[2:] + b"\xff\xda\0\2" * 300)

        assert len(load(f"folder:{tmp_path}").pixels) == 1

    def test_deep_pixels(self, tmp_path: Path) -> None:
        """Pixels of 16 bits would be cut off at 255; they are refused."""
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")

        assert said(tmp_path) == f"{tmp_path}/a.png: has pixels of more than 8 bits (mode I;16); save it with 8"

    @pytest.mark.parametrize(("width", "height"), [(5000, 5000), (12_000, 12_000), (30_000, 30_000)])
    def test_decompression_bomb(self, tmp_path: Path, width: int, height: int) -> None:
        """A picture that would fill the memory is refused by its header."""
        (tmp_path / "a.png").write_bytes(png(width, height))

        assert said(tmp_path, shape=(1, 4, 4)).startswith(f"{tmp_path}/a.png: is too large to be opened safely")

    def test_bomb_where_pillow_was_told_to_trust(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The limit holds also where a program has lifted PIL's own."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        (tmp_path / "a.png").write_bytes(png(30_000, 30_000))

        assert said(tmp_path) == (
            f"{tmp_path}/a.png: is too large to be opened safely: 30000 x 30000 pixels, "
            f"expected at most {folders.PLAIN:,} for this file"
        )

    def test_formats_that_run_programs(self, tmp_path: Path) -> None:
        """PostScript with the suffix of a picture is not passed to Ghostscript."""
        (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")

        assert said(tmp_path) == f"{tmp_path}/a.png: {HINT}"

    def test_broken_link(self, tmp_path: Path) -> None:
        """A broken link in a class is reported like any other bad file."""
        picture(tmp_path, "cat/a.png")
        (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "gone")

        assert said(tmp_path).startswith(f"{tmp_path}/cat/b.png: No such file or directory")

    @PROPERTY
    @given(
        at=st.floats(0, 0.999), value=st.integers(0, 255), suffix=st.sampled_from([".jpg", ".png", ".gif", ".tiff"])
    )
    def test_any_byte_changed(
        self, at: float, value: int, suffix: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A damaged picture is read or refused; nothing but a ClovenError is raised."""
        folder = tmp_path_factory.mktemp("any")
        file = picture(folder, f"a{suffix}", size=(8, 8))
        content = bytearray(file.read_bytes())
        content[int(at * len(content))] = value
        file.write_bytes(content)

        with contextlib.suppress(ClovenError):
            assert len(load(f"folder:{folder}", shape=(3, 8, 8))) == 1


class TestMissingExtra:
    @pytest.mark.parametrize(
        ("package", "spec"), [("PIL", "folder:{}"), ("sklearn.datasets", "digits"), ("sklearn.datasets", "photos")]
    )
    def test_extra_is_named(self, package: str, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the packages that read pictures, the error says how to get them."""
        picture(tmp_path, "a.png")
        monkeypatch.setitem(__import__("sys").modules, package, None)

        with pytest.raises(ClovenError, match=r"pip install 'cloven\[audit\]'"):
            load(spec.format(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), None])
def test_five_thousand(shape: tuple[int, int, int] | None, data: str) -> None:
    """Tiny-ImageNet's 5,000 JPEGs, labelled by synset; some of them are grey."""
    images = load(f"folder:{data}/tiny-imagenet/train", shape=shape)

    assert images.pixels.shape == (5000, *(shape or (3, 64, 64)))
    assert len(images.classes) == 200
    assert images.labels is not None
    assert np.bincount(images.labels).tolist() == [25] * 200
