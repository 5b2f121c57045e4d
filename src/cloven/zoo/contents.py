"""Recognise an unexpected file by its first bytes: a Git LFS pointer, a web page, an archive, ..."""

from __future__ import annotations

from pathlib import Path

from cloven.files import open_regular

HEAD = 512
"""The number of bytes that is enough to recognise a file."""

_AGAIN = "fetch the file itself"
_STATE = "save the model's weights alone, with torch.save(model.state_dict(), ...), and give that file"

_BEGINNINGS = (
    (b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file itself; run: git lfs pull"),
    (b"/annex/objects/", "is a git-annex pointer, not the file itself; run: git annex get"),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file, as Keras and MATLAB 7.3 write them; export its arrays with numpy.savez",
    ),
    (b"GGUF", f"is a GGUF file, which holds a language model; {_STATE}"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it"),
    (b"BZh", "is compressed with bzip2; unpack it"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
    (b"Rar!\x1a\x07", "is a RAR archive; unpack it"),
)
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")
_ONNX_FIELDS = b"\x12\x1a\x22\x2a\x32\x3a\x42"
"""The tags that may follow an ONNX model's version: strings, the graph, the operator sets."""


def described(head: bytes) -> str | None:
    """Return what a file is and what to do about it, as the rest of a sentence, or None if it is not recognised.

    Args:
        head: the first `HEAD` bytes of the file, or more.
    """
    for beginning, sentence in _BEGINNINGS:
        if head.startswith(beginning):
            return sentence
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "is empty; fetch it again"
    if text.lower().startswith(_MARKUP):
        return f"is a web page or an XML document, such as a server's error message; {_AGAIN}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {_STATE}"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC picture, which Pillow reads only with a plugin; convert it to JPEG"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it"
    if len(head) > 2 and head[0] == 8 and head[1] < 32 and head[2] in _ONNX_FIELDS:
        return f"is an ONNX model; {_STATE}"
    if text.startswith(b"{"):
        if b'"weight_map"' in text:
            return "is an index of weights in several files; load them together and save them as one file"
        return f"is a JSON document; {_AGAIN}"
    return None


def recognised(file: Path) -> str | None:
    """Return `described` of the first bytes of a file."""
    with open_regular(file) as opened:
        return described(opened.read(HEAD))
