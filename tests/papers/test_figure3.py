"""Fig. 3 of Mehrafrooz et al. (2025) as a cost model: the two printed numbers, MACs, bytes, and ratios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from cloven.cost.profile import CipherTime, DeviceProfile, read_profile
from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import CIPHER, CostBar, Scenario, constant_power, figure3
from cloven.papers.s1.figure3_document import CostFigure, document, table
from cloven.papers.s1.figure3_presets import A7, BOARDS, LEAST, MOST, Board, arithmetic, implied, on_a7, published
from cloven.papers.s1.measured_costs import HOST, measured, scenarios
from cloven.reporting.cost_bars import draw

MAP = 401_408
"""The number of values in the first message, under both readings."""
READINGS = ("keras", "convolutions")


@pytest.fixture(scope="module")
def divided() -> dict[str, Scenario]:
    """The paper's scenario under both readings: MobileNet v1 for 224 x 224 pixels over three devices."""
    return {scenario.reading: scenario for scenario in scenarios()}


@pytest.fixture(scope="module")
def small() -> Scenario:
    """A narrow model of small images, which runs quickly."""
    (scenario,) = scenarios(["convolutions"], model="mobilenet_v1_0.25", shape=(3, 64, 64))
    return scenario


def bar(bars: tuple[CostBar, ...], device: str, processor: str = "Cortex-A7") -> CostBar:
    (found,) = (b for b in bars if (b.device, b.processor) == (device, processor))
    return found


# --- the scenario ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "cuts", "macs", "second"),
    [
        ("keras", ("conv_dw_1_bn", "conv_pw_3"), (14_450_688, 108_179_456, 446_110_208), 4 * MAP),
        ("convolutions", ("conv_pw_2", "conv_dw_10"), (67_637_248, 318_667_776, 182_435_328), MAP),
    ],
)
def test_macs_messages_and_cuts_are_those_counted_by_hand(
    divided: Mapping[str, Scenario], reading: str, cuts: tuple[str, str], macs: tuple[int, ...], second: int
) -> None:
    scenario = divided[reading]

    assert scenario.cuts == cuts
    assert tuple(map(scenario.program.macs, scenario.program.devices)) == macs
    assert [(t.source, t.target, t.bytes) for t in scenario.program.transfers] == [
        ("ED1", "ED2", 4 * MAP),
        ("ED2", "ED3", second),
    ]


def test_all_unknown_readings_are_reported() -> None:
    with pytest.raises(ClovenError) as caught:
        scenarios(["torch", "keras", "layers"])

    assert len(caught.value.problems) == 2
    assert caught.value.problems[0] == "unknown reading 'torch'; choose from keras, convolutions"


# --- the paper's two numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [0.7e9, 1e9, 1.2e9])
@pytest.mark.parametrize("reading", READINGS)
def test_the_papers_two_numbers_are_reproduced_at_any_clock(
    divided: Mapping[str, Scenario], reading: str, clock: float
) -> None:
    boards = [board.model_copy(update={"clock": clock}) for board in BOARDS]

    first = bar(figure3(implied(divided[reading], boards).profiles, divided[reading]), "ED1")

    assert first.seconds_without == pytest.approx(0.122)
    assert first.seconds_with == pytest.approx(4.432)
    assert first.ratio == pytest.approx(36.33, abs=0.005)


def test_ratios_lie_in_the_papers_range_only_if_layers_are_convolutions(divided: Mapping[str, Scenario]) -> None:
    found = {reading: figure3(implied(scenario).profiles, scenario) for reading, scenario in divided.items()}

    assert all(LEAST <= b.ratio <= MOST for b in found["convolutions"])
    assert [round(bar(found["convolutions"], d).ratio, 1) for d in ("ED1", "ED2", "ED3")] == [36.3, 10.4, 4.3]
    assert [round(bar(found["keras"], d).ratio, 1) for d in ("ED1", "ED2", "ED3")] == [36.3, 10.4, 2.1]
    assert bar(found["keras"], "ED3").ratio < LEAST


def test_a_figure_has_three_processors_for_each_of_three_devices(divided: Mapping[str, Scenario]) -> None:
    bars = figure3(published(divided["keras"]).profiles, divided["keras"])

    assert len(bars) == 9
    assert {b.processor for b in bars} == {"Cortex-A7", "Cortex-A9", "Cortex-A17"}
    assert [b.device for b in bars] == ["ED1"] * 3 + ["ED2"] * 3 + ["ED3"] * 3


@pytest.mark.parametrize("clock", [0.9e9, 1e9, 1.2e9])
@pytest.mark.parametrize("cipher", on_a7(), ids=lambda cipher: cipher.note)
@pytest.mark.parametrize("reading", READINGS)
def test_published_speeds_make_one_and_a_half_to_nearly_twice(
    divided: Mapping[str, Scenario], reading: str, cipher: CipherTime, clock: float
) -> None:
    board = Board(name="Cortex-A7", clock=clock)
    speed = divided[reading].program.macs("ED1") / 0.122
    at_clock = {"message": cipher.message * 1e9 / clock, "byte": cipher.byte * 1e9 / clock}

    profile = board.profile(speed, cipher.model_copy(update=at_clock))

    assert 1.5 <= bar(figure3({"Cortex-A7": profile}, divided[reading]), "ED1").ratio <= 1.84


@pytest.mark.parametrize("reading", READINGS)
def test_published_speeds_at_one_gigahertz(divided: Mapping[str, Scenario], reading: str) -> None:
    bars = figure3(published(divided[reading]).profiles, divided[reading])

    ratios = [round(bar(bars, device).ratio, 1) for device in ("ED1", "ED2", "ED3")]
    assert ratios == [1.8, 1.2, 1.0 if reading == "keras" else 1.1]


# --- the model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_shipped_profiles_have_the_papers_speed_at_one_gigahertz(
    divided: Mapping[str, Scenario], board: Board
) -> None:
    profile = published(divided["convolutions"]).profiles[board.name]
    known = read_profile(DeviceProfile, board.name.lower(), Path())

    assert known.compute.macs_per_second == pytest.approx(profile.compute.macs_per_second, rel=1e-4)
    assert known.compute.origin == "assumed"
    assert known.ciphers[CIPHER] == profile.ciphers[CIPHER]
    assert known.power is None  # the paper does not state it


def test_published_cycles_of_1536_bytes_and_of_long_messages_make_a_cipher_s_time() -> None:
    ours, _, _ = on_a7()

    assert 1e9 * (ours.message + 1536 * ours.byte) == pytest.approx(1536 * 58.3)
    assert 1e9 * ours.byte == pytest.approx(57.2)


def test_energy_is_time_at_one_power_and_so_are_its_ratios(divided: Mapping[str, Scenario]) -> None:
    boards = [Board(name="Cortex-A7", power=0.5), Board(name="Cortex-A17", clock=1.8e9, power=3.0)]

    for found in figure3(published(divided["keras"], boards).profiles, divided["keras"]):
        power = 0.5 if found.processor == "Cortex-A7" else 3.0
        assert found.joules_with / found.joules_without == pytest.approx(found.ratio)
        assert found.joules_with == pytest.approx(found.seconds_with * power)


def test_a_higher_clock_shortens_computing_and_encrypting(divided: Mapping[str, Scenario]) -> None:
    """The Cortex-A7 keeps the paper's 0.122 s at its own clock; the others have as many cycles for a MAC."""
    scenario = divided["keras"]
    slow, fast = (
        figure3(published(scenario, [A7, Board(name="Cortex-A9", clock=clock)]).profiles, scenario)
        for clock in (1e9, 2e9)
    )

    for device in ("ED1", "ED2", "ED3"):
        assert bar(slow, device) == bar(fast, device)
        both = bar(slow, device, "Cortex-A9"), bar(fast, device, "Cortex-A9")
        assert both[0].seconds_without == pytest.approx(2 * both[1].seconds_without)
        assert both[0].seconds_with == pytest.approx(2 * both[1].seconds_with)


def test_the_time_on_the_link_is_a_separate_number(divided: Mapping[str, Scenario]) -> None:
    bars = figure3(implied(divided["convolutions"]).profiles, divided["convolutions"])

    assert bar(bars, "ED1").link_seconds == pytest.approx(0.128, abs=5e-4)
    assert bar(bars, "ED3").link_seconds == 0
    assert bar(bars, "ED1").seconds_without == pytest.approx(0.122)


def test_a_profile_without_power_or_without_the_cipher_is_refused(small: Scenario) -> None:
    unpowered = read_profile(DeviceProfile, "cortex-a7", Path())
    keyless = unpowered.model_copy(update={"power": constant_power(1.0), "ciphers": {}})

    with pytest.raises(ClovenError, match=r"has no table \[power\]"):
        figure3({"board": unpowered}, small)
    with pytest.raises(ClovenError, match=r"has no table \[ciphers.ascon-128\]"):
        figure3({"board": keyless}, small)


# --- the arithmetic -------------------------------------------------------------------------------------------


def test_the_36_times_under_the_reading_as_convolutions(divided: Mapping[str, Scenario]) -> None:
    found = arithmetic(divided["convolutions"])

    assert found.added_seconds == pytest.approx(4.31)
    assert found.bytes == 1_605_632
    assert round(found.cycles_a_byte) == round(found.nanoseconds_a_byte) == 2684
    assert [round(f) for f in found.factor] == [47, 58]
    assert found.published == pytest.approx((46.5, 57.2), rel=1e-3)
    assert [round(clock / 1e9, 2) for clock in found.short_clock] == [0.70, 0.81]
    assert round(found.macs_a_second / 1e6) == 554
    assert found.within
    assert found.falling


def test_the_36_times_under_the_reading_as_keras_layers(divided: Mapping[str, Scenario]) -> None:
    found = arithmetic(divided["keras"])

    assert round(found.macs_a_second / 1e6) == 118
    assert found.cycles_a_mac == pytest.approx(8.44, abs=0.01)
    assert not found.within


@pytest.mark.parametrize(("clock", "cost"), [(0.9e9, 2416), (1e9, 2684), (1.2e9, 3221)])
def test_implied_cycles_a_byte_go_with_the_clock(divided: Mapping[str, Scenario], clock: float, cost: int) -> None:
    found = arithmetic(divided["keras"], [Board(name="Cortex-A7", clock=clock)])

    assert round(found.cycles_a_byte) == cost


def test_sentences_contain_the_numbers(divided: Mapping[str, Scenario]) -> None:
    keras, convolutions = (" ".join(arithmetic(divided[reading]).sentences) for reading in READINGS)

    assert "a ratio of 36.3" in keras
    assert "2,684 cycles per byte" in keras
    assert "46.5 to 57.2" in keras
    assert "47 to 58 times fewer" in keras
    assert (
        "36.3 / 10.4 / 2.1 times as long with the cipher as without. Under this reading these ratios do not all lie"
        in keras
    )
    assert (
        "36.3 / 10.4 / 4.3 times as long with the cipher as without. Under this reading these ratios all lie"
        in convolutions
    )


# --- this host ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_this_host_is_profiled_with_the_parts_of_the_model(small: Scenario) -> None:
    preset = measured(small, power=5.0, runs=3)

    profile = preset.profiles[HOST]
    assert profile.compute.origin == profile.ciphers[CIPHER].origin == "measured"
    assert sum(row.macs for row in profile.compute.operators) == sum(map(small.program.macs, small.program.devices))
    bars = figure3(preset.profiles, small)
    assert [(b.device, b.processor) for b in bars] == [("ED1", HOST), ("ED2", HOST), ("ED3", HOST)]
    cipher = profile.ciphers[CIPHER]
    assert bars[0].seconds_with - bars[0].seconds_without == pytest.approx(
        cipher.message + bars[0].bytes * cipher.byte
    )
    assert bars[0].joules_with == pytest.approx(5.0 * bars[0].seconds_with)


# --- the document ---------------------------------------------------------------------------------------------


def test_a_document_is_json_with_everything_in_it(divided: Mapping[str, Scenario], small: Scenario) -> None:
    host = implied(small)  # in place of a measurement

    made = document([divided["keras"], small], measured={"convolutions": host})

    assert parse_document(CostFigure, made.text(), "figure.json") == made
    first, second = made.readings
    assert [preset.name for preset in first.presets] == ["implied", "published"]
    assert [preset.name for preset in second.presets] == ["implied", "published", "implied"]
    assert first.cuts == ("conv_dw_1_bn", "conv_pw_3")
    assert len(first.arithmetic.sentences) == 8
    assert made.link.transmission.bandwidth == 100e6
    a17 = first.presets[1].profiles["Cortex-A17"]
    assert "Cortex-A15" in a17.ciphers[CIPHER].note
    assert a17.ciphers[CIPHER].origin == "assumed"


def test_a_table_has_a_row_for_each_bar(divided: Mapping[str, Scenario]) -> None:
    rows = table(document(tuple(divided.values())))

    assert len(rows) == 2 * 2 * 9
    assert rows[0] == {
        "reading": "keras",
        "preset": "implied",
        "device": "ED1",
        "processor": "Cortex-A7",
        "MMAC": 14.5,
        "bytes": 1_605_632,
        "s without": 0.122,
        "s with": 4.432,
        "J without": 0.122,
        "J with": 4.432,
        "times": 36.33,
        "s on the link": 0.1285,
    }


# --- the chart ------------------------------------------------------------------------------------------------


def test_the_chart_has_a_panel_for_each_preset_of_time_and_of_energy(
    divided: Mapping[str, Scenario], tmp_path: Path
) -> None:
    made = document(tuple(divided.values()))

    figure = draw(made)

    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["implied by the paper's two numbers", "Ascon's published speeds", "", ""]
    heights = [patch.get_height() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert heights[0] == pytest.approx(4.432)  # the whole bar; the dark part is drawn over it
    assert heights[9] == pytest.approx(0.122)
    figure.savefig(tmp_path / "figure3.png", dpi=40)
    assert (tmp_path / "figure3.png").stat().st_size > 5000


def test_a_chart_of_a_reading_that_is_not_in_the_document_is_refused(divided: Mapping[str, Scenario]) -> None:
    with pytest.raises(ClovenError, match="no reading 'convolutions'; choose from keras"):
        draw(document([divided["keras"]]))
