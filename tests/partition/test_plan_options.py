"""The entries of a plan from the options of a command, and the errors of options that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from cloven.partition.plan import check_document
from cloven.partition.plan_options import Options, document

MODEL = {"name": "lenet5", "input": [1, 28, 28], "classes": 10}


def horizontal(**more: Any) -> dict[str, Any]:
    return {"kind": "horizontal", "axis": "out_channels", "exchange": "local", "sums": "hub"} | more


def vertical(*cuts: str, **more: Any) -> dict[str, Any]:
    return {"kind": "vertical", "cuts": list(cuts)} | more


def data(**more: Any) -> dict[str, Any]:
    return {"kind": "data", "halo": "exact"} | more


def edges(*numbers: int) -> list[str]:
    return [f"edge{i}" for i in numbers]


BEFORE = {"kind": "vertical", "on": edges(0), "until": "s"}
"""What runs before ``--from s``."""


@pytest.mark.parametrize(
    ("options", "strategy", "devices"),
    [
        # One strategy; the number of devices follows from its parameters, else what is usual for it.
        (Options("vertical"), vertical(), 2),
        (Options("vertical", devices=3), vertical(), 3),
        (Options("vertical", cuts=("a", "b")), vertical("a", "b"), 3),
        (Options("vertical", devices=5, cuts=("a", "b")), vertical("a", "b"), 5),
        (Options("horizontal"), horizontal(), 2),
        (Options("horizontal", devices=4, axis="fused"), horizontal(axis="fused"), 4),
        (
            Options("horizontal", axis="in_channels", sums="scatter"),
            horizontal(axis="in_channels", sums="scatter"),
            2,
        ),
        (Options("horizontal", exchange="layer"), horizontal(exchange="layer"), 2),
        (Options("horizontal", shares=[2, 1, 1]), horizontal(shares=[2, 1, 1]), 3),
        (Options("horizontal", devices=2, shares=[2, 1, 1]), horizontal(shares=[2, 1, 1]), 2),
        (Options("data"), data(), 4),
        (Options("data", devices=8), data(), 8),
        (Options("data", grid=(3, 2)), data(grid=[3, 2]), 6),
        (Options("data", halo="none", until="x"), data(halo="none", until="x"), 4),
        (Options("horizontal", until="x"), horizontal(until="x"), 2),
        # --from: what is before runs on the first device.
        (
            Options("horizontal", start="s", until="u"),
            [BEFORE, horizontal(until="u")],
            2,
        ),
        (Options("vertical", start="s", cuts=("a",)), [BEFORE, vertical("a")], 2),
        (Options("data", start="s"), [BEFORE, data()], 4),
        # --then: another strategy goes on.
        (
            Options("data", grid=(1, 2), until="u", then="horizontal", axis="rows"),
            [data(grid=[1, 2], until="u"), horizontal(axis="rows")],
            2,
        ),
        (Options("data", until="u", then="vertical"), [data(until="u"), vertical()], 4),
        (
            Options("horizontal", until="u", then="vertical", cuts=("a",)),
            [horizontal(until="u"), vertical("a")],
            2,
        ),
        (Options("horizontal", until="u", then="horizontal"), [horizontal(until="u"), horizontal()], 2),
        (
            Options("data", start="s", until="u", then="horizontal"),
            [BEFORE, data(until="u"), horizontal()],
            4,
        ),
        # A pipeline ends at its last cut, on as many devices as it has parts; then all of them go on.
        (
            Options("vertical", cuts=("a", "b"), then="horizontal"),
            [vertical("a", until="b", on=edges(0, 1)), horizontal()],
            2,
        ),
        (
            Options("vertical", devices=4, cuts=("a",), then="horizontal", shares=[1, 1, 1, 2]),
            [vertical(until="a", on=edges(0)), horizontal(shares=[1, 1, 1, 2])],
            4,
        ),
        # --inside: one part of a pipeline on several devices.
        (
            Options("vertical", cuts=("a", "b"), inside="2:3", axis="rows"),
            [
                vertical(on=edges(0), until="a"),
                horizontal(axis="rows", on=edges(1, 2, 3), until="b"),
                vertical(on=edges(4)),
            ],
            5,
        ),
        (
            Options("vertical", cuts=("a",), inside="1:2"),
            [horizontal(on=edges(0, 1), until="a"), vertical(on=edges(2))],
            3,
        ),
        (
            Options("vertical", devices=3, cuts=("a",), inside="2:2"),
            [vertical(on=edges(0), until="a"), horizontal(on=edges(1, 2))],
            3,
        ),
    ],
)
def test_options_make_a_plans_entries(
    options: Options, strategy: dict[str, Any] | list[dict[str, Any]], devices: int
) -> None:
    made, problems = document(options)

    assert problems == []
    assert made == {"strategy": strategy, "devices": edges(*range(devices))}
    # The plan takes them as they are, and says them back.
    plan, wrong = check_document({"model": MODEL, **made})
    assert wrong == []
    assert plan is not None
    assert len(plan.stages) == (len(strategy) if isinstance(strategy, list) else 1)


UNTIL = "--then requires --until, the layer after which the next strategy begins"


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            Options(
                "vertical", axis="rows", exchange="layer", sums="scatter", shares=[1], grid=(1, 1), halo="none"
            ),
            [
                "--grid requires --strategy data; got vertical",
                "--halo requires --strategy data; got vertical",
                "--axis requires --strategy horizontal; got vertical",
                "--exchange requires --strategy horizontal; got vertical",
                "--sums requires --strategy horizontal; got vertical",
                "--shares requires --strategy horizontal or data; got vertical",
            ],
        ),
        (
            Options("horizontal", cuts=("a",), grid=(2, 2), halo="none"),
            [
                "--cuts requires --strategy vertical; got horizontal",
                "--grid requires --strategy data; got horizontal",
                "--halo requires --strategy data; got horizontal",
            ],
        ),
        (
            Options("data", cuts=("a",), axis="rows"),
            [
                "--cuts requires --strategy vertical; got data",
                "--axis requires --strategy horizontal; got data",
            ],
        ),
        (
            Options("vertical", until="u"),
            ["--until requires --strategy data or horizontal; a vertical plan takes --cuts"],
        ),
        (Options("data", then="horizontal"), [UNTIL]),
        (Options("horizontal", then="vertical", cuts=("a",)), [UNTIL]),
        (Options("data", then="data"), ["--then is 'data'; choose vertical or horizontal", UNTIL]),
        (Options("vertical", cuts=("a",), then="up"), ["--then is 'up'; choose vertical or horizontal"]),
        (Options("vertical", then="horizontal"), ["--then requires --cuts"]),
        (
            Options("vertical", cuts=("a", "b"), then="vertical"),
            ["--then vertical is not needed after --strategy vertical; name all cuts with --cuts"],
        ),
        (
            Options("vertical", cuts=("a",), then="horizontal", start="s"),
            ["--from and --then cannot be combined with --strategy vertical; name the layers with --cuts"],
        ),
        (
            Options("vertical", devices=1, cuts=("a", "b"), then="horizontal"),
            ["a pipeline of 2 parts needs as many devices or more; got 1"],
        ),
        (
            Options("horizontal", inside="1:2"),
            ["--inside requires --strategy vertical; got horizontal"],
        ),
        (
            Options("vertical", cuts=("a",), inside="1:2", start="s"),
            ["--inside and --from cannot be combined; --inside divides one of the parts made by --cuts"],
        ),
        (
            Options("vertical", cuts=("a",), inside="1:2", then="horizontal"),
            ["--inside and --then cannot be combined; --inside divides one of the parts made by --cuts"],
        ),
        (
            Options("vertical", devices=4, cuts=("a",), inside="1:2"),
            ["--inside 1:2 makes 3 devices; got 4"],
        ),
    ],
)
def test_options_that_do_not_fit_together_are_all_named(options: Options, problems: list[str]) -> None:
    made, found = document(options)

    assert found == problems
    # The plan is still made as far as possible, so that the rest can be checked too.
    assert made["devices"]
    assert made["strategy"]


@pytest.mark.parametrize("inside", ["3:2", "0:2", "1:1", "1:0", "x", "1", "1:2:3", "-1:2", "1.5:2"])
def test_inside_that_names_no_part_and_devices_is_refused(inside: str) -> None:
    _, found = document(Options("vertical", cuts=("a",), inside=inside))

    assert found == [
        f"--inside is {inside!r}; expected PART:DEVICES with a part from 1 to 2 (as made by --cuts) and 2 "
        "or more devices"
    ]


@pytest.mark.parametrize("strategy", ["diagonal", "", "Vertical"])
def test_an_unknown_strategy_is_left_to_the_plan_to_refuse(strategy: str) -> None:
    made, _ = document(Options(strategy))
    plan, wrong = check_document({"model": MODEL, **made})

    assert plan is None
    assert any(repr(strategy) in problem for problem in wrong), wrong
