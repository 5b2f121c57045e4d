"""The built documentation: complete, and self-contained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cloven
from tests.docs.pages import ROOT

LOADED = re.compile(r"""<(?:script|img|iframe|source|link(?=[^>]*stylesheet))[^>]*(?:src|href)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link, anchor or page that is missing in the menu is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))

    assert len(pages) > 10
    assert [page.name for page in pages if LOADED.search(page.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("page", "package"), [("api", "cloven"), ("attacks", "cloven.attacks")], ids=lambda value: value
)
def test_the_reference_has_every_public_name(page: str, package: str, site: Path) -> None:
    text = (site / "reference" / page / "index.html").read_text("utf-8")
    names = cloven.attacks.__all__ if package == "cloven.attacks" else cloven.__all__

    assert [name for name in names if f'id="{package}.{name}"' not in text] == []


def test_the_reference_has_every_command(site: Path) -> None:
    text = (site / "reference" / "commands" / "index.html").read_text("utf-8")

    assert {"cloven audit", "cloven keys new", "cloven enclave run"} <= set(
        re.findall(r'<h2 id="[^"]*">([^<]*)', text)
    )
    assert "--seeds N" in text
