"""Transforms of a share before it crosses a link: their names and bytes, and their use in plans and programs."""

from __future__ import annotations

import math

import pytest
import torch

from cloven.cost.tasks import LinkMessage, tasks
from cloven.errors import ClovenError
from cloven.partition import plan as plans
from cloven.partition.compiler import divide
from cloven.partition.data import Data, tiles
from cloven.partition.description import described
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import Seen, seen_on, slices_of, tiles_of
from cloven.partition.plan_options import transformed
from cloven.partition.transform import NONE, UNCHANGED, Transform, Transforms
from cloven.partition.usage import usage
from cloven.partition.vertical import Vertical
from tests.models import lenet5
from tests.partition.texts import PLAN

torch.manual_seed(1)
CUTS = Vertical(("conv2", "pool2"))
"""conv2 is 16x10x10, pool2 16x5x5."""


def every(text: str, **links: str) -> Transforms:
    """Transforms with a default; ``edge0_edge1="int8"`` for a link."""
    named = {name.replace("_", "-"): Transform.parse(word) for name, word in links.items()}
    return Transforms(default=Transform.parse(text), links=named)


# --- the words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("none", "none"),
        ("float16", "float16"),
        ("int8", "int8"),
        ("topk:0.10", "topk:0.1"),
        ("noise:1", "noise:1"),
        ("noise:1e-7", "noise:1e-07"),
        ("noise:2.50", "noise:2.5"),
        ("dropout:.3", "dropout:0.3"),
    ],
)
def test_a_text_is_a_transform_and_back(text: str, name: str) -> None:
    made = Transform.parse(text)

    assert made.name == name
    assert Transform.parse(made.name) == made
    assert made.exact == (text == "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gzip", "expected none, float16, int8, topk:0.1, noise:0.5, dropout:0.3"),
        ("", "expected none, float16"),
        ("INT8", "expected none, float16"),
        ("int8:4", "int8 takes no number"),
        ("none:0", "none takes no number"),
        ("topk", "topk takes a number between 0 and 1, such as topk:0.1"),
        ("topk:", "topk takes a number between 0 and 1"),
        ("topk:ten", "topk takes a number between 0 and 1"),
        ("topk:0", "topk takes a number between 0 and 1"),
        ("topk:1", "topk takes a number between 0 and 1"),
        ("dropout:1.5", "dropout takes a number between 0 and 1, such as dropout:0.3"),
        ("dropout:nan", "dropout takes a number between 0 and 1"),
        ("noise:-1", "noise takes a finite number above 0, such as noise:0.5"),
        ("noise:0", "noise takes a finite number above 0"),
        ("noise:inf", "noise takes a finite number above 0"),
    ],
)
def test_what_is_no_transform_says_what_is_expected(text: str, expected: str) -> None:
    with pytest.raises(ClovenError) as caught:
        Transform.parse(text)

    assert str(caught.value).startswith(f"{text!r} is not a valid transform: {expected}")


def test_a_transform_that_cannot_be_is_not_made() -> None:
    with pytest.raises(ClovenError, match="'topk:2' is not a valid transform: topk takes a number between 0 and 1"):
        Transform("topk", 2)
    with pytest.raises(ClovenError, match="'noise:nan' is not a valid transform"):
        Transform("noise", math.nan)
    with pytest.raises(ClovenError, match="'int8:1' is not a valid transform: int8 takes no number"):
        Transform("int8", 1)


# --- the bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("none", 1600, 6400),
        ("float16", 1600, 3200),
        ("int8", 1600, 1608),
        ("noise:0.5", 1600, 6400),
        ("dropout:0.5", 1600, 6400),
        # 160 numbers and a bit for each of 1600; 16 numbers and 16 places: 64 bytes are less than 200.
        ("topk:0.1", 1600, 640 + 200),
        ("topk:0.01", 1600, 64 + 64),
        # At least one number is kept; a bitmap of 10 bits takes 2 bytes.
        ("topk:0.001", 10, 4 + 2),
        ("topk:0.999", 1, 4 + 1),
    ],
)
def test_bytes_of_an_images_share(text: str, count: int, expected: int) -> None:
    assert Transform.parse(text).bytes(count) == expected


def test_top_k_is_cheaper_than_all_only_where_it_leaves_out_enough() -> None:
    """A bitmap costs 1/32 of the numbers: what keeps more than 31/32 of them sends more than all of them."""
    assert Transform.parse("topk:0.9").bytes(3200) < 4 * 3200
    assert Transform.parse("topk:0.99").bytes(3200) > 4 * 3200


# --- links ----------------------------------------------------------------------------------------------------


def test_a_link_has_its_own_word_or_the_default_in_both_directions() -> None:
    made = every("float16", edge0_edge1="int8", edge1_edge2="none")

    assert made.of("edge0", "edge1") == made.of("edge1", "edge0") == Transform("int8")
    assert made.of("edge2", "edge1") == NONE
    assert made.of("edge0", "edge2") == Transform("float16")
    assert UNCHANGED.of("edge0", "edge1") == NONE


def test_all_that_is_wrong_with_links_is_said_at_once() -> None:
    links = dict.fromkeys(("edge0-edge9", "edge0-edge1", "edge1-edge0", "coordinator-edge0"), NONE)

    found = list(Transforms(links=links).problems(("edge0", "edge1")))

    assert len(found) == 3
    assert "transform.links: 'edge0-edge9' is not a link; expected two of edge0, edge1 joined" in found[0]
    assert "edge0-edge1 and edge1-edge0 are the same link" in found[1]
    assert "'coordinator-edge0' is not a link; expected two of edge0, edge1" in found[2]


def test_workers_cannot_run_what_any_link_of_theirs_cannot_carry() -> None:
    devices = ("edge0", "edge1", "edge2")
    (said,) = every("noise:2", edge0_edge1="int8", edge1_edge2="topk:0.1").unsendable(devices)

    assert "the plan transforms links with noise:2, topk:0.1, but workers send only none, float16, int8" in said
    assert "`cloven run`" in said
    assert UNCHANGED.unsendable(devices) == every("int8", edge0_edge1="float16").unsendable(devices) == []
    assert every("noise:2").unsendable(("edge0",)) == []
    assert every("noise:2", edge0_edge1="none").unsendable(("edge0", "edge1")) == []


def test_options_become_a_plans_table() -> None:
    assert transformed([]) == {}
    assert transformed(["int8"]) == {"transform": {"default": "int8", "links": {}}}
    assert transformed(["a-b=topk:0.1", "float16"]) == {
        "transform": {"default": "float16", "links": {"a-b": "topk:0.1"}}
    }
    assert transformed(["image=uint8"]) == {"transform": {"links": {}, "image": "uint8"}}


# --- plans ----------------------------------------------------------------------------------------------------


def test_a_plan_keeps_its_transforms_in_its_file() -> None:
    words = '[transform]\ndefault = "topk:0.10"\n[transform.links]\n"edge1-edge-2" = "int8"\n'
    made = plans.parse(PLAN + words)

    assert made.transform == Transforms(default=Transform("topk", 0.1), links={"edge1-edge-2": Transform("int8")})
    assert plans.parse(made.toml()) == made
    assert '[transform]\ndefault = "topk:0.1"\n\n[transform.links]\n"edge1-edge-2" = "int8"\n' in made.toml()
    assert "transform" not in plans.parse(PLAN).toml()
    assert [t.bytes for t in plans.compile(lenet5(), made).transfers] == [840, 408]


def test_an_image_of_pixels_takes_a_quarter_of_the_bytes() -> None:
    """The table of links and the estimate count them; what the devices send each other is the same."""
    made = plans.parse(PLAN + '[transform]\nimage = "uint8"\n')
    program, usual = (plans.compile(lenet5(), plan) for plan in (made, plans.parse(PLAN)))

    assert plans.parse(made.toml()) == made
    assert program.exact
    assert (program.transfers, usual.image_bytes, program.image_bytes) == (usual.transfers, 3136, 784)
    first = described(made, program).links[0]
    assert (first.link, first.bytes, first.transforms) == (("coordinator", "edge0"), 784, ("uint8",))
    (message,) = (task for task in tasks(program) if isinstance(task, LinkMessage) and not task.after)
    assert message.bytes == 784


def test_every_wrong_entry_of_a_plan_is_named_at_once() -> None:
    words = '[transform]\ndefault = "gzip"\nall = 3\n[transform.links]\n"edge0-edge1" = "topk:7"\n"a-b" = 8\n'

    with pytest.raises(ClovenError) as caught:
        plans.parse(PLAN + words)

    assert sorted(caught.value.problems) == [
        "the plan: transform.all is not a known entry (got 3)",
        "the plan: transform.default: expected none, float16, int8, topk:0.1, noise:0.5, dropout:0.3 (got 'gzip')",
        "the plan: transform.links.a-b: expected none, float16, int8, topk:0.1, noise:0.5, dropout:0.3 (got 8)",
        "the plan: transform.links.edge0-edge1: topk takes a number between 0 and 1, such as topk:0.1 "
        "(got 'topk:7')",
    ]


def test_links_of_no_devices_are_problems_of_the_plan_and_of_a_program() -> None:
    made = plans.parse(PLAN + '[transform.links]\n"edge0-edge7" = "int8"\n')
    unknown = "transform.links: 'edge0-edge7' is not a link"

    assert [problem for problem in plans.problems(lenet5(), made) if unknown in problem]
    with pytest.raises(ClovenError, match=unknown):
        plans.compile(lenet5(), made)
    with pytest.raises(ClovenError, match=unknown):
        divide(lenet5(), CUTS, transforms=made.transform)


# --- programs -------------------------------------------------------------------------------------------------


def test_a_program_says_what_is_done_to_each_transfer() -> None:
    program = divide(lenet5(), CUTS, transforms=every("none", edge1_edge2="int8"))

    assert [t.transform.name for t in program.transfers] == ["none", "int8"]
    assert [t.bytes for t in program.transfers] == [6400, 408]
    assert program.sent(("edge1", "edge2")) == 408
    assert not program.exact
    assert program.inexact == ("its links carry int8",)


def test_what_a_link_that_carries_nothing_would_do_changes_nothing() -> None:
    program = divide(lenet5(), CUTS, transforms=every("none", edge0_edge2="int8"))

    assert program.exact
    assert program.inexact == ()


def test_every_reason_why_a_program_is_not_the_model_is_said() -> None:
    program = divide(lenet5(), Data((2, 2), halo="none"), transforms=every("int8", edge0_edge1="topk:0.5"))

    assert program.inexact == ("its tiles have no halo", "its links carry topk:0.5, int8")


def test_a_receiver_holds_float32_whatever_crossed() -> None:
    plain, coded = (usage(divide(lenet5(), Horizontal(), 3, transforms=t)) for t in (UNCHANGED, every("int8")))

    assert plain == coded


def test_a_plan_for_people_and_json_shows_it() -> None:
    made = plans.parse(PLAN + '[transform]\ndefault = "float16"\n')
    shown = described(made, plans.compile(lenet5(), made))

    assert [transfer.transform for transfer in shown.transfers] == ["float16", "float16"]
    assert sum(transfer.bytes for transfer in shown.transfers) == 3200 + 800
    assert (shown.exact, list(shown.inexact)) == (False, ["its links carry float16"])


# --- observations ---------------------------------------------------------------------------------------------


def test_a_listener_sees_what_the_sender_made_of_it() -> None:
    program = divide(lenet5(), CUTS, transforms=every("none", edge0_edge1="int8"))
    plain = divide(lenet5(), CUTS)
    first, second = ("edge0", "edge1"), ("edge1", "edge2")

    seen = seen_on(program, first)

    assert [s.transform for s in seen.seen] == [Transform("int8")]
    assert seen.bytes == 1608
    assert str(seen.seen[0]).endswith(" as int8")
    assert " as " not in str(seen_on(program, second).seen[0])
    assert seen.fingerprint != seen_on(plain, first).fingerprint
    # Neither a plan without transforms nor a link without one has another fingerprint than it had.
    assert seen_on(program, second).fingerprint == seen_on(plain, second).fingerprint
    assert seen_on(plain, first).fingerprint == seen_on(divide(lenet5(), Vertical(("conv2",))), first).fingerprint


def test_different_transforms_are_different_observations() -> None:
    texts = ("none", "float16", "int8", "topk:0.1", "topk:0.2", "noise:0.2", "dropout:0.2")
    programs = [divide(lenet5(), CUTS, transforms=every(text)) for text in texts]

    assert len({seen_on(p, ("edge0", "edge1")).fingerprint for p in programs}) == len(texts)


def test_colluding_taps_have_a_share_once_for_each_way_in_which_it_was_sent() -> None:
    links = [("edge0", "edge1"), ("edge0", "edge2")]
    same, other = (
        seen_on(divide(lenet5(), Horizontal(), 3, transforms=t), *links, value="input")
        for t in (every("int8"), every("int8", edge0_edge2="float16"))
    )

    assert [s.transform.name for s in same.seen] == ["int8"]
    assert [s.transform.name for s in other.seen] == ["int8", "float16"]


def test_the_papers_view_is_as_the_link_that_is_listened_on_carries_it() -> None:
    program = divide(lenet5(), Horizontal(), 4, transforms=every("int8", edge1_edge3="none", edge0_edge2="float16"))
    share = ((4, 8), (0, 5), (0, 5))

    def view(*links: tuple[str, str], value: str = "pool2") -> Seen:
        return seen_on(program, *links, view="paper", value=value, share=share).seen[0]

    assert view(("edge1", "edge0")).transform.name == "int8"
    assert view(("edge1", "edge3")).transform.name == "none"
    # Of several links the first that carries it; where none does, the first.
    assert view(("edge0", "edge2"), ("edge1", "edge3")).transform.name == "none"
    assert view(("edge0", "edge2"), ("edge2", "edge0")).transform.name == "float16"


def test_the_papers_slices_and_tiles_are_as_their_links_carry_them() -> None:
    slices = divide(lenet5(), Horizontal(), 4, transforms=every("float16"))
    grid = divide(lenet5(), Data((2, 2)), 4, transforms=every("int8", edge0_edge3="none"))

    assert {o.seen[0].transform.name for o in slices_of(slices, "pool2")} == {"float16"}
    # The holder's own tile crosses no link.
    tiled = [o.seen[0].transform.name for o in tiles_of(grid, tiles((1, 28, 28), (2, 2)))]
    assert tiled == ["none", "int8", "int8", "none"]
