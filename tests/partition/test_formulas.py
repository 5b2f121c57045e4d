"""The traffic of plans, compared with closed formulas.

M is the number of elements that a layer reads, and K the number that it makes, for one image; N is the number of
devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from cloven.graph.box import count, hull
from cloven.graph.graph import Graph
from cloven.partition.compiler import Routing, divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Axis, Horizontal
from cloven.partition.observe import seen_on, slices_of
from cloven.partition.program import Compute, Link, Program
from cloven.runtime.capture import capture
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.mobilenet import MobileNetV1

SIDE = 16
CHANNELS = (8, 16, 24, 8)
MAPS = tuple(channels * SIDE * SIDE for channels in CHANNELS)
"""The number of elements of the image and of the three layers' outputs; M and K of a layer are neighbours."""
DEVICES = (2, 4, 8)


@cache
def stack(kernel: int = 3) -> Graph:
    """Three convolutions with ReLUs between them; every number of channels can be divided by 2, 4 and 8."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(CHANNELS):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]
    return capture(nn.Sequential(*layers[:-1]), torch.zeros(1, CHANNELS[0], SIDE, SIDE))


def sent(program: Program, of: Callable[[str], bool] = lambda value: True) -> Counter[Link]:
    """Return the number of elements of some values that cross each link."""
    found: Counter[Link] = Counter()
    for transfer in program.transfers:
        if of(transfer.value):
            found[transfer.link] += transfer.bytes // 4
    return found


def total(program: Program, *values: str) -> int:
    return sent(program, lambda value: value in values).total()


def also_runs(program: Program, graph: Graph) -> None:
    """Check that the counted elements are sent, and that the result is the model's."""
    images = torch.rand(2, *graph.input.shape)
    carried = 0

    def tap(_: object, tensor: torch.Tensor) -> None:
        nonlocal carried
        carried += tensor.nbytes

    made = run(program, images, tap=tap)

    assert carried == 2 * sum(t.bytes for t in program.transfers)
    assert torch.allclose(made, evaluate(graph, images, [graph.output])[graph.output], rtol=0, atol=1e-5)


# --- Stahl's star, in which a device is sent its own share back -----------------------------------------------


def star(axis: Axis, devices: int) -> Program:
    program = divide(stack(), Horizontal(axis), devices, routing="star", reuse=False)
    also_runs(program, stack())
    assert all("edge0" in link for link in program.links)
    return program


@pytest.mark.parametrize("n", DEVICES)
def test_lop_through_a_star_sends_m_n_minus_1_out_and_k_n_minus_1_of_n_back(n: int) -> None:
    program = star("out_channels", n)
    links = sent(program)

    for value, (m, k) in zip(("input", "1", "3"), pairwise(MAPS), strict=True):
        out = total(program, value if value == "input" else f"{value}.join")
        back = total(program, {"input": "1", "1": "3", "3": "4"}[value])
        assert (out, back) == (m * (n - 1), k * (n - 1) // n)
    for device in program.devices[1:]:
        assert links["edge0", device] == sum(MAPS[:-1])
        assert links[device, "edge0"] == sum(MAPS[1:]) // n
    assert links.total() == sum(m * (n - 1) + k * (n - 1) // n for m, k in pairwise(MAPS))


@pytest.mark.parametrize("n", DEVICES)
def test_lip_through_a_star_sends_shares_out_and_sums_of_full_size_back(n: int) -> None:
    program = star("in_channels", n)
    links = sent(program)

    for read, made, (m, k) in zip(("input", "1", "3"), ("0", "2", "4"), pairwise(MAPS), strict=True):
        partials = [f"{made}.partial@{device}" for device in range(n)]
        assert total(program, read) == m * (n - 1) // n
        assert total(program, *partials) == k * (n - 1)
    for device in program.devices[1:]:
        assert links["edge0", device] == sum(MAPS[:-1]) // n
        assert links[device, "edge0"] == sum(MAPS[1:])


@pytest.mark.parametrize("n", DEVICES)
def test_a_fused_pair_sends_m_n_minus_1_out_and_k_n_minus_1_back(n: int) -> None:
    """The first two layers are a pair; the third has no partner and is LOP."""
    program = star("fused", n)
    m, _, k, last = MAPS

    assert total(program, "input") == m * (n - 1)
    assert total(program, *(f"2.partial@{device}" for device in range(n))) == k * (n - 1)
    assert total(program, "0", "1") == 0
    assert total(program, "3") == k * (n - 1)
    assert total(program, "4") == last * (n - 1) // n
    assert sent(program).total() == (m + k) * (n - 1) + k * (n - 1) + last * (n - 1) // n


def test_uneven_channels_leave_the_remainder_to_the_last_device_and_its_links() -> None:
    program = divide(stack(), Horizontal(), 3, routing="star", reuse=False)
    back = {device: [t.shape[0] for t in program.transfers if t.source == device] for device in program.devices[1:]}

    assert back == {"edge1": [5, 8, 2], "edge2": [6, 8, 4]}


# --- with reuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", DEVICES)
def test_lop_with_all_gather_sends_each_map_to_all_but_its_makers(n: int) -> None:
    """Every device has 1/N of a map and lacks the rest: N M (N - 1)/N; the image is one device's alone."""
    program = divide(stack(), Horizontal(), n)
    links = sent(program, lambda value: value in ("1", "3"))
    m, *inner, k = MAPS

    also_runs(program, stack())
    assert total(program, "input") == m * (n - 1)
    for value, numbers in zip(("1", "3"), inner, strict=True):
        assert total(program, value) == numbers * (n - 1)
    assert total(program, "4") == k * (n - 1) // n
    # Each link carries slice i of each layer.
    assert set(links.values()) == {sum(inner) // n}
    assert len(links) == n * (n - 1)


@pytest.mark.parametrize("n", DEVICES)
def test_lop_through_a_star_with_reuse_sends_as_much_as_all_gather_but_through_the_hub(n: int) -> None:
    """A worker's slice goes up once, M (N - 1)/N in all; down goes what each worker lacks, (N - 1) M (N - 1)/N."""
    program = divide(stack(), Horizontal(), n, routing="star")
    m, *inner, k = MAPS

    also_runs(program, stack())
    for device in program.devices[1:]:
        assert sent(program)[device, "edge0"] == (sum(inner) + k) // n
        assert sent(program)["edge0", device] == m + sum(inner) * (n - 1) // n
    assert sent(program).total() == sent(divide(stack(), Horizontal(), n)).total()


@pytest.mark.parametrize("routing", ["direct", "star"])
@pytest.mark.parametrize("n", DEVICES)
def test_lip_needs_no_reuse_a_share_is_never_where_it_is_needed(n: int, routing: Routing) -> None:
    program = divide(stack(), Horizontal("in_channels"), n, routing=routing)

    assert sent(program) == sent(star("in_channels", n))


@pytest.mark.parametrize("n", DEVICES)
def test_sums_that_scatter_send_each_device_its_share_of_every_others_sum(n: int) -> None:
    """Reduce-scatter: N (N - 1) K/N. The sums' shares are the next layer's inputs, so that maps are never sent."""
    program = divide(stack(), Horizontal("in_channels", sums="scatter"), n)
    m, *_, k = MAPS

    also_runs(program, stack())
    assert total(program, "input") == m * (n - 1) // n
    for made, numbers in zip(("0", "2", "4"), MAPS[1:], strict=True):
        partials = [f"{made}.partial@{device}" for device in range(n)]
        assert total(program, *partials) == numbers * (n - 1)
        assert set(sent(program, partials.__contains__).values()) == {numbers // n}
    assert total(program, "0", "1", "2", "3") == 0
    assert total(program, "4") == k * (n - 1) // n


@pytest.mark.parametrize("n", DEVICES)
def test_a_fused_pair_that_scatters_sends_each_device_its_share_which_all_then_gather(n: int) -> None:
    """The second layer's sums scatter, N (N - 1) K/N; its shares are then gathered by all as the next input."""
    program = divide(stack(), Horizontal("fused", sums="scatter"), n)
    _, _, k, _ = MAPS
    partials = [f"2.partial@{device}" for device in range(n)]

    also_runs(program, stack())
    assert set(sent(program, partials.__contains__).values()) == {k // n}
    assert total(program, *partials) == total(program, "3") == k * (n - 1)


# --- rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("n", DEVICES)
def test_rows_send_half_a_window_of_rows_to_each_neighbour_and_to_nobody_else(n: int, kernel: int) -> None:
    graph, halo = stack(kernel), kernel // 2
    program = divide(graph, Horizontal("rows"), n)
    neighbours = {(f"edge{i}", f"edge{j}") for i in range(n) for j in (i - 1, i + 1) if 0 <= j < n}

    also_runs(program, graph)
    for value, channels in zip(("1", "3"), CHANNELS[1:], strict=False):
        assert sent(program, value.__eq__) == dict.fromkeys(neighbours, halo * SIDE * channels)
        shares = [t.shape for t in program.transfers if t.value == value]
        assert set(shares) == {(channels, halo, SIDE)}
    # The first device holds the image and sends each other one its rows and the halo around them.
    for device, name in enumerate(program.devices[1:], start=1):
        top, bottom = device * SIDE // n - halo, (device + 1) * SIDE // n + halo
        rows = min(bottom, SIDE) - max(top, 0)
        assert sent(program, "input".__eq__)["edge0", name] == rows * SIDE * CHANNELS[0]
    assert total(program, "4") == MAPS[-1] * (n - 1) // n


def test_columns_send_what_rows_send_of_a_square_map() -> None:
    rows, columns = (divide(stack(), Horizontal(axis), 4) for axis in ("rows", "columns"))

    assert sent(rows) == sent(columns)
    assert {t.shape[1:] for t in columns.transfers if t.value == "3"} == {(SIDE, 1)}


# --- MobileNet at Layer 2, as in Mehrafrooz et al. (2025) -----------------------------------------------------

IMAGE, LAYER_2 = 150_528, 401_408


@cache
def mobilenet() -> Graph:
    torch.manual_seed(0)
    return capture(MobileNetV1(classes=10).eval(), torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize(("n", "numbers"), [(2, 200_704), (4, 100_352), (8, 50_176)])
def test_a_slice_of_layer_2_is_1_of_n_and_crosses_every_link_once(n: int, numbers: int) -> None:
    """With channel-local exchange, the output of the depthwise layer crosses, which has the same size."""
    for strategy, value in ((Horizontal(exchange="layer"), "conv1"), (Horizontal(), "conv_dw_1_relu")):
        program = divide(mobilenet(), strategy, n)
        of_value = [t for t in program.transfers if t.value == value]

        assert {t.bytes // 4 for t in of_value} == {numbers}
        assert {t.shape for t in of_value} == {(32 // n, 112, 112)}
        assert len(of_value) == n * (n - 1)
    counted = list(slices_of(program, "conv1_bn"))
    assert [o.seen[0].bytes // 4 for o in counted] == [numbers] * n
    assert {o.crosses for o in counted} == {False}


@pytest.mark.parametrize("n", DEVICES)
def test_the_star_sends_every_worker_the_image_and_with_reuse_all_but_its_own_slice(n: int) -> None:
    program = divide(mobilenet(), Horizontal(exchange="layer"), n, routing="star")

    for device in program.devices[1:]:
        down, up = seen_on(program, ("edge0", device)), seen_on(program, (device, "edge0"))
        assert (down.seen[0].value, down.seen[0].bytes // 4) == ("input", IMAGE)
        assert down.raw_image == 1
        assert sum(s.bytes // 4 for s in down.seen if s.value == "conv1") == LAYER_2 - LAYER_2 // n
        assert sum(s.bytes // 4 for s in up.seen if s.value == "conv1") == LAYER_2 // n


def test_without_reuse_a_worker_is_sent_all_of_layer_2() -> None:
    program = divide(mobilenet(), Horizontal(exchange="layer"), 4, routing="star", reuse=False)

    assert {s.bytes // 4 for s in seen_on(program, ("edge0", "edge3")).seen if s.value == "conv1.join"} == {LAYER_2}


@pytest.mark.parametrize("n", DEVICES)
def test_full_size_partial_sums_do_not_shrink_with_the_number_of_devices(n: int) -> None:
    """The image's 3 channels cannot be divided among more than 3; the first pointwise layer's 32 can."""
    program = divide(mobilenet(), Horizontal("in_channels"), n)

    assert total(program, "conv_pw_1.partial@1") == 64 * 112 * 112
    assert sum(t.value.startswith("conv1.partial") for t in program.transfers) == min(n, 3) - 1


@pytest.mark.parametrize(("grid", "numbers"), [((1, 2), 75_264), ((2, 2), 37_632), ((2, 4), 18_816)])
def test_a_tile_without_halo_is_1_of_n_of_the_image(grid: tuple[int, int], numbers: int) -> None:
    program = divide(mobilenet(), Data(grid, until="conv_pw_3", halo="none"))

    for device in program.devices[1:]:
        seen = seen_on(program, ("edge0", device))
        assert [s.bytes // 4 for s in seen.seen] == [numbers]
        assert seen.raw_image == pytest.approx(numbers / IMAGE)


@pytest.mark.parametrize(
    ("layer", "least", "most"),
    [
        ("conv1", 0.250, 0.254),
        ("conv_pw_3", 0.278, 0.292),
        ("conv_pw_5", 0.316, 0.353),
        ("conv_pw_7", 0.402, 0.491),
        ("conv_pw_11", 0.846, 0.973),
        ("conv_pw_13", 1.000, 1.000),
    ],
)
def test_a_tile_with_halo_is_more_of_the_image_the_deeper_the_layer(layer: str, least: float, most: float) -> None:
    program = divide(mobilenet(), Data((2, 2), until=layer))
    shares = [count(hull(list(_of_the_image(program, device)))) / IMAGE for device in program.devices]

    assert min(shares) == pytest.approx(least, abs=6e-4)
    assert max(shares) == pytest.approx(most, abs=6e-4)
    for device, share in zip(program.devices[1:], shares[1:], strict=True):
        assert seen_on(program, ("edge0", device)).raw_image == pytest.approx(share)


def _of_the_image(program: Program, device: str) -> list[tuple[tuple[int, int], ...]]:
    steps = [step for step in program.parts[device] if isinstance(step, Compute)]
    return [need for step in steps for value, need in step.reads if value == program.graph.input.name]


def test_one_row_crosses_each_way_at_stride_1_and_one_is_read_twice_at_stride_2() -> None:
    program = divide(mobilenet(), Horizontal("rows"), 2)
    reads = [
        step.reads[0][1][1]
        for part in program.parts.values()
        for step in part
        if isinstance(step, Compute) and step.value == "conv1"
    ]

    # conv_dw_1: 3x3 at stride 1, on 112 columns of 32 channels.
    assert sent(program, "conv1_relu".__eq__) == {("edge0", "edge1"): 3_584, ("edge1", "edge0"): 3_584}
    # conv1 reads rows 2i to 2i + 2 of an image padded at its end: the upper half needs one row of the lower.
    assert reads == [(0, 113), (112, 225)]


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_concatenation_of_rows_stays_where_its_rows_are(axis: Axis) -> None:
    """Each device has the same rows of every input: nothing is gathered, and only halos cross behind it."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 3, 1)
            self.after = nn.Conv2d(7, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.after(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3))
            return made

    graph = capture(Dense(), torch.zeros(1, 2, 8, 8))
    program = divide(graph, Horizontal(axis), 4)
    crossing = [t for t in program.transfers if t.value == graph.find("cat")]

    assert len(program.owners[graph.find("cat")]) == 4
    assert sum(t.bytes for t in crossing) == 4 * 6 * 7 * 8  # three seams, both ways, 7 channels of 8 numbers
    assert {t.value for t in program.transfers} & {"a", "b"} == set()
