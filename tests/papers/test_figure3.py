"""Fig. 3 of Mehrafrooz et al. (2025) as a cost model: the two printed numbers, MACs, bytes, and ratios."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.papers.s1 import measured_costs
from cloven.papers.s1.figure3 import (
    CipherCost,
    CostBar,
    DeviceLoad,
    EdgeProcessor,
    MeasuredFacts,
    Preset,
    Scenario,
    figure3,
)
from cloven.papers.s1.figure3_document import CostFigure, document, table
from cloven.papers.s1.figure3_presets import (
    A7_ARMV7,
    A7_NEON,
    A9,
    A15,
    BOARDS,
    LEAST,
    MOST,
    ON_A7,
    Board,
    arithmetic,
    implied,
    published,
)
from cloven.papers.s1.measured_costs import HOST, Compiled, compiled, measured
from cloven.reporting.cost_bars import draw
from cloven.runtime.link.ciphers import CIPHERS
from cloven.runtime.link.errors import WrongTag

MAP = 401_408
"""The number of values in the first message, under both readings."""
READINGS = ("keras", "convolutions")


@pytest.fixture(scope="module")
def whole() -> dict[str, Compiled]:
    """Compile the paper's scenario: MobileNet v1 for 224 x 224 pixels."""
    return {made.scenario.reading: made for made in compiled()}


@pytest.fixture(scope="module")
def small() -> Compiled:
    """Compile a narrow model of small images, which runs quickly."""
    (made,) = compiled(["convolutions"], model="mobilenet_v1_0.25", shape=(3, 64, 64))
    return made


def counted(reading: str) -> Scenario:
    """Return the scenario with MACs and bytes counted by hand."""
    if reading == "keras":
        macs, sent = (14_450_688, 108_179_456, 446_110_208), (4 * MAP, 4 * MAP)
    else:
        macs, sent = (67_637_248, 318_667_776, 182_435_328), (4 * MAP, MAP)
    loads = (
        DeviceLoad("ED1", macs[0], (), sent[:1]),
        DeviceLoad("ED2", macs[1], sent[:1], sent[1:]),
        DeviceLoad("ED3", macs[2], sent[1:], ()),
    )
    cuts = ("conv_dw_1_bn", "conv_pw_3") if reading == "keras" else ("conv_pw_2", "conv_dw_10")
    return Scenario("keras" if reading == "keras" else "convolutions", "mobilenet_v1", cuts, loads)


def bar(bars: tuple[CostBar, ...], device: str, processor: str = "Cortex-A7") -> CostBar:
    (found,) = (b for b in bars if (b.device, b.processor) == (device, processor))
    return found


# --- the scenario ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", READINGS)
def test_macs_messages_and_cuts_are_those_counted_by_hand(whole: dict[str, Compiled], reading: str) -> None:
    assert whole[reading].scenario == counted(reading)


@pytest.mark.parametrize(
    ("reading", "mmac"), [("keras", (14.5, 108.2, 446.1)), ("convolutions", (67.6, 318.7, 182.4))]
)
def test_millions_of_macs_are_those_of_the_two_readings(reading: str, mmac: tuple[float, ...]) -> None:
    assert tuple(round(load.macs / 1e6, 1) for load in counted(reading).loads) == mmac


@pytest.mark.parametrize("reading", READINGS)
def test_the_first_device_encrypts_the_second_does_both_the_third_decrypts(reading: str) -> None:
    loads = counted(reading).loads

    assert [(len(load.opens), len(load.seals)) for load in loads] == [(0, 1), (1, 1), (1, 0)]
    assert loads[0].seals == loads[1].opens == (4 * MAP,)


def test_all_unknown_readings_are_reported() -> None:
    with pytest.raises(ClovenError) as caught:
        compiled(["torch", "keras", "layers"])

    assert len(caught.value.problems) == 2
    assert caught.value.problems[0] == "unknown reading 'torch'; choose from keras, convolutions"


# --- the paper's two numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [0.7e9, 1e9, 1.2e9])
@pytest.mark.parametrize("reading", READINGS)
def test_the_papers_two_numbers_are_reproduced_at_any_clock(reading: str, clock: float) -> None:
    boards = [replace(board, clock=clock) for board in BOARDS]

    first = bar(figure3(implied(counted(reading), boards), counted(reading)), "ED1")

    assert first.seconds_without == pytest.approx(0.122)
    assert first.seconds_with == pytest.approx(4.432)
    assert first.ratio == pytest.approx(36.33, abs=0.005)


def test_ratios_lie_in_the_papers_range_only_if_layers_are_convolutions() -> None:
    found = {reading: figure3(implied(counted(reading)), counted(reading)) for reading in READINGS}

    assert all(LEAST <= b.ratio <= MOST for b in found["convolutions"])
    assert [round(bar(found["convolutions"], d).ratio, 1) for d in ("ED1", "ED2", "ED3")] == [36.3, 10.4, 4.3]
    assert [round(bar(found["keras"], d).ratio, 1) for d in ("ED1", "ED2", "ED3")] == [36.3, 10.4, 2.1]
    assert bar(found["keras"], "ED3").ratio < LEAST


def test_a_figure_has_three_processors_for_each_of_three_devices() -> None:
    bars = figure3(published(counted("keras")), counted("keras"))

    assert len(bars) == 9
    assert {b.processor for b in bars} == {"Cortex-A7", "Cortex-A9", "Cortex-A17"}
    assert [b.device for b in bars] == ["ED1"] * 3 + ["ED2"] * 3 + ["ED3"] * 3


@pytest.mark.parametrize("clock", [0.9e9, 1e9, 1.2e9])
@pytest.mark.parametrize("cipher", ON_A7, ids=lambda c: c.name)
@pytest.mark.parametrize("reading", READINGS)
def test_published_speeds_make_one_and_a_half_to_nearly_twice(
    reading: str, cipher: CipherCost, clock: float
) -> None:
    preset = published(counted(reading), [Board("Cortex-A7", clock)], {"Cortex-A7": cipher})

    assert 1.5 <= bar(figure3(preset, counted(reading)), "ED1").ratio <= 1.84


@pytest.mark.parametrize("reading", READINGS)
def test_published_speeds_at_one_gigahertz(reading: str) -> None:
    ratios = [bar(figure3(published(counted(reading)), counted(reading)), d).ratio for d in ("ED1", "ED2", "ED3")]

    assert [round(ratio, 1) for ratio in ratios] == [1.8, 1.2, 1.0 if reading == "keras" else 1.1]


# --- the model ------------------------------------------------------------------------------------------------


def test_energy_is_time_at_one_power_and_so_are_its_ratios() -> None:
    boards = [Board("Cortex-A7", 1e9, 0.5), Board("Cortex-A17", 1.8e9, 3.0)]

    for found in figure3(published(counted("keras"), boards), counted("keras")):
        assert found.joules_with / found.joules_without == pytest.approx(found.ratio)
        assert found.joules_with == pytest.approx(
            found.seconds_with * (0.5 if found.processor == "Cortex-A7" else 3.0)
        )


def test_twice_the_clock_is_half_the_time() -> None:
    slow, fast = (
        figure3(
            Preset(
                "test", "", "", (EdgeProcessor("core", clock, 1.0, clock / 2),), {"core": CipherCost("c", (), 10.0)}
            ),
            counted("keras"),
        )
        for clock in (1e9, 2e9)
    )

    assert [b.seconds_with for b in slow] == pytest.approx([2 * b.seconds_with for b in fast])


def test_the_time_on_the_link_is_a_separate_number() -> None:
    scenario = counted("convolutions")
    bars, slower = (figure3(implied(scenario), scenario, link_rate=rate) for rate in (100e6, 54e6))

    assert bar(bars, "ED1").link_seconds == pytest.approx(0.128, abs=5e-4)
    assert bar(slower, "ED1").link_seconds == pytest.approx(0.238, abs=5e-4)
    assert bar(bars, "ED3").link_seconds == 0
    assert bar(bars, "ED1").seconds_with == bar(slower, "ED1").seconds_with


@pytest.mark.parametrize("cipher", [*ON_A7, A9, A15], ids=lambda c: str(c.long))
def test_a_table_s_own_lengths_cost_what_it_says_and_long_ones_approach_its_end(cipher: CipherCost) -> None:
    for length, cost in cipher.table:
        assert cipher.cycles_per_byte(length) == pytest.approx(cost)
    assert cipher.cycles_per_byte(4 * MAP) == pytest.approx(cipher.long, rel=1e-3)
    costs = [cipher.cycles_per_byte(length) for length in range(1, 5000)]
    assert costs == sorted(costs, reverse=True)


def test_between_two_lengths_logarithms_are_interpolated() -> None:
    cipher = CipherCost("test", ((4, 100.0), (16, 25.0)), 20.0)

    assert cipher.cycles_per_byte(8) == pytest.approx(50.0)
    assert cipher.cycles_per_byte(2) == pytest.approx(200.0)  # as many cycles as a message of four bytes
    assert cipher.cycles(0) == cipher.cycles(1) == cipher.cycles(4) == pytest.approx(400.0)
    assert cipher.cycles(32) - cipher.cycles(16) == pytest.approx(16 * 20.0)


# --- the arithmetic -------------------------------------------------------------------------------------------


def test_the_36_times_under_the_reading_as_convolutions() -> None:
    found = arithmetic(counted("convolutions"))

    assert found.added_seconds == pytest.approx(4.31)
    assert found.bytes == 1_605_632
    assert round(found.cycles_a_byte) == round(found.nanoseconds_a_byte) == 2684
    assert [round(f) for f in found.factor] == [47, 58]
    assert found.published == pytest.approx((A7_NEON.long, A7_ARMV7.long), rel=1e-3)
    assert [round(clock / 1e9, 2) for clock in found.short_clock] == [0.70, 0.81]
    assert round(found.macs_a_second / 1e6) == 554
    assert found.within
    assert found.falling


def test_the_36_times_under_the_reading_as_keras_layers() -> None:
    found = arithmetic(counted("keras"))

    assert round(found.macs_a_second / 1e6) == 118
    assert found.cycles_a_mac == pytest.approx(8.44, abs=0.01)
    assert not found.within


@pytest.mark.parametrize(("clock", "cost"), [(0.9e9, 2416), (1e9, 2684), (1.2e9, 3221)])
def test_implied_cycles_a_byte_go_with_the_clock(clock: float, cost: int) -> None:
    assert round(arithmetic(counted("keras"), [Board("Cortex-A7", clock)]).cycles_a_byte) == cost


def test_sentences_contain_the_numbers() -> None:
    keras, convolutions = (" ".join(arithmetic(counted(reading)).sentences) for reading in READINGS)

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


def test_the_measured_preset_runs_every_part_and_encrypts_every_message(small: Compiled) -> None:
    preset = measured(small, runs=2, power=5.0)

    facts = preset.facts
    assert isinstance(facts, MeasuredFacts)
    assert (facts.threads, facts.runs, facts.cipher) == (1, 2, "ascon-128")
    assert [m.bytes for m in facts.messages] == list(small.scenario.sizes)
    for message in facts.messages:
        assert (message.sealed, message.opened, message.changed_refused) == (3, 3, True)
        assert 0 < message.seal_s < 1
    bars = figure3(preset, small.scenario)
    assert [(b.device, b.processor) for b in bars] == [("ED1", HOST), ("ED2", HOST), ("ED3", HOST)]
    assert [b.seconds_without for b in bars] == [part.seconds for part in facts.parts]
    (first,) = (m for m in facts.messages if m.bytes == bars[0].bytes)
    added = bars[0].seconds_with - bars[0].seconds_without
    assert added == pytest.approx((first.seal_s + first.open_s) / 2)
    assert bars[0].joules_with == pytest.approx(5.0 * bars[0].seconds_with)


def test_the_measured_cipher_refuses_changed_bytes() -> None:
    cipher = CIPHERS[measured_costs.CIPHER]
    key, nonce, text = bytes(16), bytes(16), bytes(range(100))
    sealed = bytearray(cipher.seal(key, nonce, b"", text))

    assert bytes(sealed[:100]) != text
    assert cipher.open(key, nonce, b"", sealed) == text
    sealed[7] ^= 1
    with pytest.raises(WrongTag):
        cipher.open(key, nonce, b"", sealed)


def test_invalid_settings_of_a_measurement_are_refused(small: Compiled) -> None:
    with pytest.raises(ClovenError) as caught:
        measured(small, runs=0, power=-1.0)

    assert caught.value.problems == (
        "runs must be 1 or more, got 0",
        "this host: the power is -1; expected a number above 0",
    )


# --- the document ---------------------------------------------------------------------------------------------


def test_a_document_is_json_with_everything_in_it(small: Compiled) -> None:
    made = document(
        [counted("keras"), small.scenario], measured={"convolutions": measured(small, runs=1)}, link_rate=54e6
    )

    assert parse_document(CostFigure, made.text(), "figure.json") == made
    first, second = made.readings
    assert [preset.name for preset in first.presets] == ["implied", "published"]
    assert [preset.name for preset in second.presets] == ["implied", "published", "measured"]
    assert first.cuts == ("conv_dw_1_bn", "conv_pw_3")
    assert len(first.arithmetic.sentences) == 8
    assert made.link_bits == 54e6
    a17 = next(p for p in first.presets[1].processors if p.name == "Cortex-A17")
    assert a17.note == "not in the paper"
    assert "Cortex-A15" in a17.cipher


def test_a_table_has_a_row_for_each_bar() -> None:
    rows = table(document([counted(reading) for reading in READINGS]))

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


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ClovenError) as caught:
        document([counted("keras")], ["implied", "eBACS"], boards=[Board("Cortex-A7", -1e9, nan)], link_rate=0)

    assert caught.value.problems == (
        "unknown preset 'eBACS'; choose from implied, published",
        "Cortex-A7: the clock is -1e+09; expected a number above 0",
        "Cortex-A7: the power is nan; expected a number above 0",
        "the link's rate is 0 bit/s; expected a number above 0",
    )


def test_an_impossible_preset_is_refused_with_all_problems() -> None:
    core = EdgeProcessor("core", 1e9, 1.0, inf)
    wrong = Preset(
        "test",
        "",
        "",
        (core, EdgeProcessor("other", 1e9, 1.0, 1e9)),
        {"core": CipherCost("cipher", ((8, 2.0), (4, -1.0)), 1.0)},
    )

    with pytest.raises(ClovenError) as caught:
        figure3(wrong, counted("keras"), link_rate=-5)

    assert caught.value.problems == (
        "core: the MAC/s is inf; expected a number above 0",
        "cipher: the lengths in the table are [8, 4]; expected ascending numbers from 1",
        "cipher: the cost is -1 cycles per byte; expected a number above 0",
        "test: the cost of the cipher on other is missing, only those on core are given; add it",
        "the link's rate is -5 bit/s; expected a number above 0",
    )


def test_missing_or_repeated_processors_and_readings_are_refused() -> None:
    with pytest.raises(ClovenError, match="Cortex-A7, Cortex-A7; expected one or more, each once"):
        implied(counted("keras"), [Board("Cortex-A7"), Board("Cortex-A7")])
    with pytest.raises(ClovenError, match="readings are none"):
        document([])


# --- the chart ------------------------------------------------------------------------------------------------


def test_the_chart_has_a_panel_for_each_preset_of_time_and_of_energy(tmp_path: Path) -> None:
    made = document([counted(reading) for reading in READINGS])

    figure = draw(made)

    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["implied by the paper's two numbers", "Ascon's published speeds", "", ""]
    heights = [patch.get_height() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert heights[0] == pytest.approx(4.432)  # the whole bar; the dark part is drawn over it
    assert heights[9] == pytest.approx(0.122)
    figure.savefig(tmp_path / "figure3.png", dpi=40)
    assert (tmp_path / "figure3.png").stat().st_size > 5000


def test_a_chart_of_a_reading_that_is_not_in_the_document_is_refused() -> None:
    with pytest.raises(ClovenError, match="no reading 'convolutions'; choose from keras"):
        draw(document([counted("keras")]))
