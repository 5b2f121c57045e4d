"""``cloven audit --fail-above``: exit codes and reports."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from tests.cli.conftest import Run

AUDIT = ("audit", "lenet5", "--layers", "pool2", "--strategies", "vertical", "--attacks", "probe",
         "--queries", "60", "--victims", "30", "--judge", "none", "--jobs", "1",
         "--fail-above", "labels=0")  # fmt: skip


def test_a_leak_above_the_limit_exits_with_1_until_it_is_accepted(cloven: Run, here: Path) -> None:
    failed = cloven(*AUDIT, "--junit", "leaks.xml", "--sarif", "leaks.sarif")
    accepted = cloven(*AUDIT, "--accepted", "known.json", "--accept")
    again = cloven(*AUDIT, "--accepted", "known.json")

    assert failed.code == 1
    assert "labels leak up to" in failed.err
    assert ElementTree.parse("leaks.xml").find("testsuite/testcase/failure") is not None
    assert json.loads(Path("leaks.sarif").read_text())["runs"][0]["results"]
    assert accepted.code == again.code == 0, accepted.err + again.err


def test_its_options_require_a_limit(cloven: Run, here: Path) -> None:
    done = cloven("audit", "--junit", "leaks.xml", "--accept")

    assert done.code == 2
    assert "--junit requires --fail-above" in done.err
    assert "--accept requires --fail-above and --accepted" in done.err
