"""Sealed results: each opens only for its own input and its own run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloven.enclave.sealed_folder import INPUT, RESULT, Sealed
from cloven.enclave.sealed_results import RESULT_BYTES, SealedResult, digest, open_results, sealed_result
from cloven.enclave.sealing import Header, seal
from cloven.errors import ClovenError

KEY = bytes(range(32))
FOLDER = Sealed(Path("sealed"), "ab" * 16, 2**30)
RUN, EARLIER = "1" * 64, "2" * 64


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, and their results in the order c, a, b."""
    monkeypatch.chdir(tmp_path)
    for position, name in enumerate("cab"):
        Path(f"{name}.png").write_bytes(name.encode())
        result(name, position)
    return tmp_path


def result(name: str, position: int, run: str = RUN) -> SealedResult:
    made = SealedResult(
        run=run, position=position, inputs=(digest(name.encode()),), logits=((float(position), 1e-7),)
    )
    Path(f"{name}.result").write_bytes(sealed_result(made, FOLDER, KEY))
    return made


def opened(*names: str, run: str = RUN) -> tuple[list[SealedResult], list[str]]:
    pairs = [(Path(f"{name}.result"), Path(f"{name}.png")) for name in names]
    return open_results(FOLDER, KEY, pairs, run=run)


def refused(*names: str, run: str = RUN) -> list[str]:
    with pytest.raises(ClovenError) as caught:
        opened(*names, run=run)
    return list(caught.value.problems)


def test_results_open_with_the_owners_pictures_and_run(here: Path) -> None:
    found, notes = opened("a", "b", "c")

    assert [one.position for one in found] == [1, 2, 0]
    assert found[0] == result("a", 1)
    assert not notes


def test_a_copy_of_the_sealed_input_is_as_good_as_the_picture(here: Path) -> None:
    seal(b"a", Path("a.sealed"), key=KEY, name=FOLDER.name(INPUT))
    seal(b"b", Path("b.sealed"), key=KEY, name=FOLDER.name(INPUT))

    assert open_results(FOLDER, KEY, [(Path("a.result"), Path("a.sealed"))], run=RUN)[0] == [result("a", 1)]
    with pytest.raises(ClovenError, match=r"a.result is not the result of b.sealed"):
        open_results(FOLDER, KEY, [(Path("a.result"), Path("b.sealed"))], run=RUN)


def test_exchanged_results_are_both_named(here: Path) -> None:
    Path("a.result").rename("x")
    Path("b.result").rename("a.result")
    Path("x").rename("b.result")

    first, second = refused("a", "b", "c")
    assert first.startswith("a.result is not the result of a.png")
    assert second.startswith("b.result is not the result of b.png")


def test_a_result_of_an_earlier_run_is_refused_though_the_input_is_the_same(here: Path) -> None:
    result("a", 1, EARLIER)

    (said,) = refused("a", "b", "c")
    assert said.startswith(f"a.result is a result of another run ({EARLIER}, expected {RUN})")
    assert len(refused("b", "c", run=EARLIER)) == 2


def test_one_result_for_two_equal_pictures_is_refused(here: Path) -> None:
    Path("b.png").write_bytes(b"a")
    Path("b.result").write_bytes(Path("a.result").read_bytes())

    assert refused("a", "b") == ["b.result is a copy of a.result: both are result 1 of the enclave"]


def test_a_result_that_the_host_keeps_is_missing(here: Path) -> None:
    Path("b.result").unlink()

    assert refused("a", "b", "c") == ["b.result is missing: the host did not return the result of b.png"]


def test_an_input_that_was_run_beside_those_asked_for_is_noticed(here: Path) -> None:
    """The host ran an old sealed input, and withheld its result."""
    result("b", 4)

    found, notes = opened("a", "b", "c")
    assert len(found) == 3
    assert notes == ["the run has other results: 2, 3 (of 0 to 4) are not among these"]


def test_a_changed_result_and_one_of_another_folder_are_refused(here: Path) -> None:
    text = bytearray(Path("a.result").read_bytes())
    text[-1] ^= 1
    Path("a.result").write_bytes(text)
    other = replace(FOLDER, id="cd" * 16)
    Path("b.result").write_bytes(sealed_result(result("b", 2), other, KEY))

    assert ["cannot open" in said for said in refused("a", "b", "c")] == [True, True]


def test_a_result_that_names_neither_run_nor_input_is_refused(here: Path) -> None:
    for content in (b"{}", b'{"format": "cloven result 0", "logits": []}', b"safetensors"):
        seal(content, Path("a.result"), key=KEY, name=FOLDER.name(RESULT))
        assert all(said.startswith("a.result") for said in refused("a"))


def test_a_huge_result_takes_no_memory(here: Path) -> None:
    """A host can send a sparse file of terabytes with a matching header."""
    header = Header(bytes(32), 2**20, 2**40)
    with Path("a.result").open("wb") as file:
        file.write(header.packed)
        file.truncate(header.size)

    assert refused("a") == [f"a.result has {header.size} bytes; expected at most {RESULT_BYTES}"]


@pytest.mark.parametrize("run", ["", "1" * 63, "1" * 65, "G" * 64, "1" * 64 + "\n"])
def test_a_run_is_64_digits(here: Path, run: str) -> None:
    assert "expected the 64 digits" in refused("a", run=run)[0]
