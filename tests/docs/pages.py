"""The README and the pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

FENCE = re.compile(
    r'^(?P<runs><!-- runs -->\n+)?(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)'
    r"^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        place: the page and the line.
        language: of its fence.
        title: the file that the block is the content of, or empty.
        runs: whether ``<!-- runs -->`` stands before it: its commands are executed, not only parsed.
        text: its content.
    """

    place: str
    language: str
    title: str
    runs: bool
    text: str

    def commands(self) -> Iterator[list[str]]:
        """Yield the arguments of each ``cloven`` command in a block of shell."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if word == "cloven" or word.endswith("bin/cloven"):
                    after = words[start + 1 :]
                    end = next((at for at, token in enumerate(after) if token in {"&&", "&", "|", ";", ">"}), None)
                    yield after[:end]


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            place=f"{page.relative_to(ROOT)}:{text[: match.start('language')].count(chr(10)) + 1}",
            language=match["language"],
            title=match["title"] or "",
            runs=bool(match["runs"]),
            text=re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
        )
        for match in FENCE.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
