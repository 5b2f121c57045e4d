"""Hyper-parameters of a wrong type or value are refused by the attack's constructor."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

import cloven.attacks
from cloven.attacks import Augmented, Decoder, Ensemble, PixelDescent, Probe, Refine, Residual, load
from cloven.attacks.registry import NAMED
from cloven.errors import ClovenError

WRONG: dict[str, list[Any]] = {
    "int": ["3", -1, 0, 1.5, math.nan, True, None, [1]],
    "int | None": ["3", -1, 0, 1.5, math.nan, True, [1]],
    "float": ["3", -1.0, math.nan, math.inf, True, None, [1.0]],
    "str": [3, None, "", "nonsense"],
    "Goal": [3, None, "", "nonsense"],
    "tuple[int, ...]": [(), 3, "3", ("3",), (-1,), (True,), (1.5,), None],
    "tuple[float, ...]": [(), 3.0, "3", ("3",), (-1.0,), (math.nan,), (True,), None],
    "tuple[PixelDescent, ...]": [(), PixelDescent(1, 0.1, 0.0), (Residual(),), None],
    "Chain | None": ["x", 3, ("Conv(8,8)",)],
    "Attack": ["residual", Residual, None, 3],
}
"""Values that no field of a type may have."""


ATTACKS: set[Any] = {type(make()) for make in NAMED.values()}
KINDS = [*sorted(ATTACKS, key=str), PixelDescent]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_an_attack_refuses_wrong_values(kind: Any) -> None:
    usual = {"steps": 1, "learning_rate": 0.1, "smoothness": 0.0} if kind is PixelDescent else {}

    for field in fields(kind):
        for value in WRONG[str(field.type)]:
            with pytest.raises(ClovenError, match=f"^{field.name} is .*; expected [^\\n]*$"):
                kind(**{**usual, field.name: value})


def test_every_attack_that_is_exported_has_a_name() -> None:
    exported = [getattr(cloven.attacks, name) for name in cloven.attacks.__all__]
    attacks = {one for one in exported if isinstance(one, type) and hasattr(one, "begin")}

    assert attacks == {type(load(name)) for name in NAMED}


AN_ATTACK = "expected an attack, such as cloven.attacks.Residual()"


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Decoder, {"epochs": "3"}, "epochs is '3'; expected a whole number, 1 or more"),
        (Residual, {"epochs": 1.5}, "epochs is 1.5; expected a whole number, 1 or more, or None"),
        (Residual, {"masked": "x"}, "masked is 'x'; expected a number from 0 to below 1"),
        (Residual, {"widths": 3}, "widths is 3; expected one or more numbers of channels"),
        (Refine, {"goal": "speed"}, "goal is 'speed'; expected pixels or labels"),
        (Refine, {"start": "residual"}, f"start is 'residual'; {AN_ATTACK}"),
        (Ensemble, {"attack": "residual"}, f"attack is 'residual'; {AN_ATTACK}"),
        (Ensemble, {"attack": Residual}, f"attack is the class Residual; {AN_ATTACK}"),
        (Augmented, {"attack": None}, f"attack is None; {AN_ATTACK}"),
        (
            Decoder,
            {"layers": "x"},
            "layers is 'x'; expected a chain of layers, such as cloven.attacks.layers.rule makes, or None",
        ),
    ],
)
def test_a_wrong_value_is_answered_in_one_sentence(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ClovenError) as caught:
        kind(**given)

    assert str(caught.value) == message


# --- names of attacks that consist of others --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        (Ensemble(), "residual-ensemble"),
        (Augmented(Probe()), "probe-augmented"),
        (Refine(), "refine-pixels"),
        (Refine(Decoder(), "labels"), "refine-labels-decoder"),
        (Refine(cloven.attacks.Inpaint()), "refine-pixels-inpaint"),
        (Refine(Augmented()), "refine-pixels-(residual-augmented)"),
        (Augmented(Refine()), "(refine-pixels)-augmented"),
        (Refine(Augmented(Decoder())), "refine-pixels-(decoder-augmented)"),
        (Augmented(Refine(Decoder())), "(refine-pixels-decoder)-augmented"),
        (Ensemble(Augmented(Refine(Decoder()))), "((refine-pixels-decoder)-augmented)-ensemble"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_label_says_in_which_order_attacks_are_combined(attack: Any, label: str) -> None:
    assert attack.label == label
