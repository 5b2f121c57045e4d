from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.errors import ClovenError
from cloven.reporting import words
from cloven.reporting.pictures import picture
from cloven.reporting.report_file import most_exposed
from tests.reporting.summaries import captured, document, laddered, observations, only, samples, summary
from tests.reporting.summaries import page as render

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The content of a page: elements, visible text, and whether tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []
        self.text = " ".join("".join(self.pieces).replace(words.SPACE, " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.pieces.append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(attribute)) is not None]


@pytest.fixture(scope="module")
def typical() -> str:
    given = summary()
    return render(given, samples(given))


@cache
def plain() -> str:
    """The page of the usual summary, without samples."""
    return render(summary(), {})


def _text(**changes: Any) -> str:
    return Page(render(summary(**changes), {}) if changes else plain()).text


def test_equal_input_gives_equal_bytes(typical: str) -> None:
    given = summary()
    assert render(given, samples(given)) == typical


def test_the_page_is_one_file_that_asks_nobody_for_anything(typical: str) -> None:
    page = Page(typical)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "audio", "video"}
    assert all(
        value.startswith(("#", "data:")) for name in ("src", "href", "xlink:href") for value in page.values(name)
    )
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on") or name == "srcset"]
    assert "http:" not in typical
    assert "https:" not in typical
    assert "@import" not in typical
    assert not re.findall(r"url\((?!#)", typical)


def test_the_page_forbids_itself_all_requests_and_fits_a_phone(typical: str) -> None:
    metas = [attrs for tag, attrs in Page(typical).elements if tag == "meta"]
    policy = {"http-equiv": "Content-Security-Policy"}
    content = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy | {"content": content} in metas
    assert any(meta.get("name") == "viewport" for meta in metas)
    assert typical.startswith("<!doctype html>")


def test_ids_are_unique_and_every_reference_has_its_target(typical: str) -> None:
    page = Page(typical)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in page.values("href") if value.startswith("#")}
    wanted |= {part for value in page.values("aria-labelledby") for part in value.split()}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", typical))
    assert wanted <= set(ids)


def test_every_finding_shows_its_numbers_intervals_and_baselines(typical: str) -> None:
    rows = re.findall(r'<tr id="finding-(\d+)">(.*?)</tr>', typical, flags=re.DOTALL)
    shown = {int(index): Page(f"<table>{row}</table>").text for index, row in rows}
    everything = Page(typical).text
    for index, finding in enumerate(document(summary()).findings):
        row = shown[index]
        assert finding.ssim is not None
        assert finding.psnr is not None
        for metric, score in (("agreement", finding.agreement), ("ssim", finding.ssim)):
            assert words.number(score.mean, 3) in row
            assert words.bounds(score, 3) in row
            best = finding.baseline(metric)  # type: ignore[arg-type]
            assert best is not None
            assert words.number(best[1], 3) in row
            assert words.number(getattr(finding.leakage, metric), 3) in row
        for written in (words.number(finding.kappa, 3), words.number(finding.ssim.p95, 3)):
            assert written in row
        assert f"{words.number(finding.psnr.mean, 1)} {words.bounds(finding.psnr, 1)}" in row
        assert ("never sent" in row) == (not finding.crosses)
        assert finding.key in everything


def test_every_baseline_of_a_finding_can_be_read() -> None:
    guesses = {"black": {"ssim": 0.0123, "agreement": 0.0456}, "modal class": {"ssim": None, "agreement": 0.0789}}
    text = Page(render(only(summary()["findings"][0] | {"baselines": guesses}))).text
    for written in ("0.012", "0.046", "0.079", "n/a", "modal class"):
        assert written in text


def test_the_facts_of_an_audit_stand_below_its_drawing() -> None:
    text = _text()
    assert "98.0 % accuracy on 180 test images, kappa 0.977; 10 classes" in text
    assert "19 observations, 7 of which no link carries, by decoder" in text
    assert "3.1 kB to 63 kB over all links of each of 3 plans" in text


def test_labels_that_leak_without_an_attack_that_reads_them_may_leak_more() -> None:
    given = only(summary()["findings"][0])
    given["observations"][0]["labels_read"] = False
    assert "no attack that reads labels was tried here: labels may leak more" in Page(render(given)).text


def test_findings_with_one_key_are_one_observation_and_keep_a_row_each() -> None:
    one = summary()["findings"][0]
    given = only(one, one, one | {"link": ["edge2", "edge3"]})
    page = Page(render(given, samples(given)))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert [value for value in ids if value.startswith("finding-")] == ["finding-0", "finding-1", "finding-2"]
    assert "1 observation on 2 shares and links, by decoder" in page.text


def test_what_has_no_link_says_so(typical: str) -> None:
    plans = summary()["programs"]
    plans[2]["counted"][0] |= {"link": None, "crosses": False}
    assert re.search("no link ?never sent paper view", Page(typical).text)
    assert "1 of them the link never carries" in _text(programs=plans)
    assert re.search("no link ?never sent ?input", _text(programs=plans))


def test_many_shares_of_one_finding_are_folded_and_complete() -> None:
    many = summary()["findings"][0] | {"share": [f"{i}:{i + 1}" for i in range(5)]}
    html = render(only(many))
    assert "5 shares0:1 1:2 2:3 3:4 4:5" in Page(html).text
    assert '<details class="inline">' in html


def test_what_no_link_carries_is_not_drawn() -> None:
    given = only(summary()["findings"][0] | {"crosses": False})
    assert (
        "Nothing is drawn: no attacked observation crosses a link of a known program."
        in Page(render(given | {"programs": []}, {})).text
    )


def test_without_a_verdict_a_banner_says_why_and_no_worst_leak_is_named() -> None:
    reason = "the CNN's kappa is 0.12, below 0.3"
    given = summary(verdict={"given": False, "reason": reason, "sentence": "layer 2 leaks most"})
    text = Page(render(given, samples(given))).text
    assert f"No verdict is given: {reason}" in text
    assert "leaks most" not in text.lower()
    assert "No verdict is given" not in _text()


def test_without_findings_every_section_says_so_in_a_sentence() -> None:
    text = Page(
        render(
            summary(
                findings=0,
                programs=[],
                observations=[],
                orderings=[],
                not_measured=[],
                notes=[],
                settings={},
                versions={},
            ),
            {},
        )
    ).text
    for sentence in (
        "There are no findings: no observation was attacked.",
        "No observation was attacked, so there is nothing to compare.",
        "No pictures were kept.",
        "No expectation of the paper was tested.",
        "No plan was compiled.",
    ):
        assert sentence in text


def test_transfers_are_listed_in_order_with_a_sum_for_each_link(typical: str) -> None:
    text = Page(typical).text
    vertical = summary()["programs"][0]
    assert "3 transfers, 8.5 kB. Computes what the whole CNN computes; the largest difference is 0." in text
    for transfer in vertical["transfers"]:
        link = f"{transfer['source']} → {transfer['target']}"
        assert f"{transfer['step']} {link} {transfer['value']}".replace(" ", "") in text.replace(" ", "")
    assert "Not the whole CNN’s result: accuracy 91.1 % against 98.0 %" in text


def test_what_the_paper_counts_and_no_link_carries_is_marked(typical: str) -> None:
    ghosts = re.findall(r'<tr class="ghost">(.*?)</tr>', typical, flags=re.DOTALL)
    assert len(ghosts) == 12
    assert all("never sent" in ghost for ghost in ghosts)
    text = Page(typical).text
    assert "The paper counts 12 shares here; no link ever carries any of them." in text
    assert "The paper counts 3 shares here, and the links carry all of them." in text


@pytest.mark.parametrize(("shows", "mark"), [("holds", "<circle"), ("fails", "<rect"), ("undecided", "hollow")])
def test_an_ordering_is_told_by_word_and_shape(shows: str, mark: str) -> None:
    row = summary()["orderings"][0] | {"shows": shows}
    html = render(summary(orderings=[row]), {})
    html = _section(html, "orderings")
    found = re.search(r'<span class="outcome[^>]*>(.*?)</span>', html, flags=re.DOTALL)
    assert found is not None
    assert mark in found[1]
    assert shows in found[1]
    assert "+0.265 [+0.190, +0.335]" in Page(html).text


HOSTILE = "<script>alert('x')</script>\"& <img src=http://a.b/c onerror=x> {{ 7 * 7 }} \u202e</style>"


def _poisoned(value: Any) -> Any:
    """The same value with every string, but those with a fixed meaning, made hostile."""
    if isinstance(value, dict):
        kept = (
            "strategy", "view", "expected", "shows", "key", "observation", "converged", "metric", "covers", "over",
            "processor", "ended",
        )  # fmt: skip
        return {name: inner if name in kept else _poisoned(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_poisoned(inner) for inner in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("make", [summary, laddered])
def test_every_string_is_shown_as_text(make: Callable[[], dict[str, Any]]) -> None:
    given = _poisoned(make())
    given["findings"][0]["strategy"] = given["findings"][1]["key"] = HOSTILE
    given["findings"][2]["baselines"] = {HOSTILE: {"ssim": 0.1, "agreement": 0.1}}
    given["settings"] = {HOSTILE: HOSTILE}
    page = Page(render(given, samples(given)))
    assert not {tag for tag, _ in page.elements} & {"script"}
    assert all(value.startswith(("#", "data:")) for name in ("src", "href") for value in page.values(name))
    assert "<script>alert('x')</script>\"&" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in page.text


@pytest.mark.parametrize("protected", [True, False])
def test_what_was_captured_says_so_with_its_link_and_its_bytes(protected: bool) -> None:
    given = captured(protected=protected)
    page = Page(render(given, samples(given)))

    assert "What a listener reconstructs from what was recorded on a link" in page.text
    assert "What was captured on the link A tap recorded these messages while the system ran." in page.text
    assert ("The link was protected: the listener got ciphertext" in page.text) is protected
    assert ("The link was in clear." in page.text) is not protected
    assert "10.0.0.1:40112 → [2001:db8::2]:7001, session abababab" in page.text
    assert "5,550,720 bytes of payload in all, 4,704 for one image; 1,180 images used here." in page.text
    assert "3 of captured.safetensors, 12 of images.safetensors." in page.text
    assert "6 × 14 × 14" in page.text
    assert "No plan was compiled" not in page.text
    assert "None" not in page.text


def test_every_string_of_a_capture_is_shown_as_text() -> None:
    given = captured()
    given |= {"capture": _poisoned(given["capture"])}
    page = Page(render(given, samples(given)))

    assert "<script>alert('x')</script>\"&" in page.text
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object")]


def test_best_median_and_worst_stand_beside_their_originals(typical: str) -> None:
    roles = re.findall(r"<figcaption><b>(\w+)</b>", typical)
    assert len(roles) == 3 * 19
    assert roles[:3] == ["best", "median", "worst"]
    images = [attrs for tag, attrs in Page(_section(typical, "pictures")).elements if tag == "img"]
    assert len(images) == 2 * 3 * 19
    assert all(int(str(image["width"])) >= 56 and image["alt"] for image in images)


def test_of_many_shares_the_most_leaking_is_open_and_the_others_folded(typical: str) -> None:
    pictures = typical[typical.index('id="pictures"') : typical.index('id="findings"')]
    albums = [album for album in pictures.split("<article")[1:] if "Layer 2" in album and "horizontal" in album]
    assert len(albums) == 1
    shown, folded = albums[0].split("<details>")
    assert shown.count('class="strip"') == 1
    assert folded.count('class="strip"') == 3
    assert 'agreement <span class="num">0.67 [0.61, 0.73]</span>' in shown


def test_a_long_table_starts_folded() -> None:
    assert "<details open><summary>19 rows" in plain()
    assert "<details><summary>60 rows" in render(summary(findings=60), {})


def _section(html: str, name: str) -> str:
    start = html.index(f'<section id="{name}">')
    return html[start : html.index("</section>", start) + len("</section>")]


@pytest.fixture(scope="module")
def ladder() -> str:
    given = laddered()
    return render(given, samples(given))


def test_the_strongest_attack_on_each_observation_stands_first_on_the_page(ladder: str) -> None:
    text = Page(_section(ladder, "verdicts")).text
    assert ladder.index('id="verdicts"') < ladder.index('id="attack"')
    assert "Layer 2, verticaledge1 → edge2conv2" in text
    assert "0.63 [0.61, 0.66] by residual leaks 59 % of the possible gain, up to 61 %; baseline 0.11" in text
    assert text.index("Layer 2, vertical") < text.index("Layer 1, vertical") < text.index("Layer 4, vertical")


def test_what_is_carried_over_says_from_where_and_what_it_was(ladder: str) -> None:
    text = Page(_section(ladder, "verdicts")).text
    assert "at least 0.63 [0.61, 0.66] carried over from conv2, residual therehere 0.48 by residual" in text
    assert "SSIM: residual (0.49) is under-trained here" in text
    assert "On 1 of 4, an attack on a deeper layer scores higher" in text
    for word in ("converged", "still rises with more training", "not tested"):
        assert word in text


def test_a_verdict_leads_to_the_finding_it_speaks_of(ladder: str) -> None:
    (target,) = re.findall(r'<tr id="(finding-11)">', ladder)
    row = ladder[ladder.index(f'<tr id="{target}">') :]
    assert "residual" in row[: row.index("</tr>")]
    assert f'<a href="#{target}">residual</a>' in _section(ladder, "verdicts")


def test_what_no_link_carries_is_judged_last() -> None:
    text = Page(_section(plain(), "verdicts")).text
    assert text.rindex("edge1 → edge2") > text.index("never sent")  # horizontal, among what is folded
    assert "those that no link carries last" in text


def test_of_a_hundred_observations_most_are_folded_and_all_are_there() -> None:
    given = laddered(100, curves=[])
    section = _section(render(given, {}), "verdicts")
    shown, folded = section.split("<details>")
    assert shown.count('<th scope="row">') == 10
    assert "90 other observations" in folded
    assert folded.count('<th scope="row">') == 90


def test_without_curves_the_page_says_that_convergence_was_not_tested() -> None:
    section = Page(_section(plain(), "verdicts")).text
    assert "The effect of more pairs or longer training was not tested (--curve)." in section
    assert "still rises" not in section


def test_every_attack_has_a_cell_that_is_empty_where_it_has_no_score(ladder: str) -> None:
    table = re.search(r'<table class="suite">(.*?)</table>', ladder, flags=re.DOTALL)
    assert table is not None
    assert table[1].count('<td class="cell') == 4 * (5 + 1 + 6 + 1)
    assert table[1].count(" top") == 8
    assert 'class="suite"' not in plain()


def test_curves_are_drawn_for_each_observation_and_say_which_still_rise(ladder: str) -> None:
    section = _section(ladder, "curves")
    assert "20 of 44 curves still rise" in Page(section).text
    assert section.count(">residual ↗<") == 4 * 2 * 2
    assert section.count('class="chart"') == 4
    assert "SSIM +0.031 [+0.012, +0.050] still rises" in Page(section).text
    assert "50 % of the time5 epochs" in Page(section).text.replace("\xa0", " ")
    assert 'id="curves"' not in plain()


def test_many_curves_are_folded() -> None:
    section = _section(render(laddered(20), {}), "curves")
    assert section.count('class="chart"') == 8
    assert "12 other observations" in section


def test_a_defence_shows_accuracy_leakage_and_bytes(ladder: str) -> None:
    text = Page(_section(ladder, "defences")).text
    assert "int8, 2.1 kB" in text
    assert "int82.1 kB97.5 %97.5 %50 % 0.52 [0.49, 0.55] by residual, baseline 0.10" in text
    assert text.index("vertical, 4 devices") < text.index("data, 4 devices")


READ = "The guesses for 3 of 4 shares (75.0 %) are right"


@pytest.mark.parametrize(("hits", "said"), [(3, READ), (None, "of 4 messages")])
def test_guessed_shapes_have_a_hit_rate_where_the_truth_is_known(hits: int | None, said: str) -> None:
    shapes = laddered()["shapes"] | {"hits": hits}
    if hits is None:
        shapes["rows"] = [row | {"shape": None, "hit": None} for row in shapes["rows"]]
    text = Page(_section(render(laddered(shapes=shapes), {}), "shapes")).text
    assert said in text
    assert ("wrong" in text) == (hits is not None)


def test_findings_show_the_second_classifier_the_tile_and_the_notes() -> None:
    given = laddered(attacks=("cgan", "paste", "probe"))
    text = Page(_section(render(given, {}), "findings")).text
    for said in (
        "resnet18, accuracy 93.0 %",
        "collapsed: all reconstructions are alike",
        "mean of 3 seeds",
        "too small",
        "31.2",
        "25 % of the image",
        "makes no images",
        "images over 0.2",
    ):
        assert said in text


def test_images_without_labels_give_no_accuracy() -> None:
    text = _text(model_accuracy=None, model_kappa=None)
    assert "the 180 test images carry no labels; 10 classes" in text


def test_only_the_strongest_attacks_pictures_are_open(ladder: str) -> None:
    pictures = _section(ladder, "pictures")
    assert pictures.count("<article") == 4
    for album in pictures.split("<article")[1:]:
        shown, folded = album.split("<details>")
        assert shown.count('class="strip"') == 1
        assert "by residual" in shown
        assert folded.count('class="strip"') == 4  # a probe has none


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 200), st.booleans(), st.data())
def test_any_number_of_findings_renders(amount: int, given_verdict: bool, data: st.DataObject) -> None:
    given = summary(findings=amount, verdict={"given": given_verdict, "reason": None})
    for finding in given["findings"][:3]:
        finding |= {name: data.draw(st.text(max_size=80)) for name in ("label", "attack", "key")}
    given["observations"] = observations(given["findings"])
    page = Page(render(given, {}))
    rows = [attrs for tag, attrs in page.elements if tag == "tr" and str(attrs.get("id")).startswith("finding-")]
    assert len(rows) == amount


def test_a_small_image_is_enlarged_in_whole_steps_and_keeps_its_pixels() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (3, 28, 20), dtype=np.uint8)
    shown = picture(image)
    assert (shown.width, shown.height, shown.pixelated) == (60, 84, True)
    held = Image.open(io.BytesIO(base64.b64decode(shown.uri.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(held).transpose(2, 0, 1), image)


def test_a_large_image_is_reduced_to_what_the_page_shows() -> None:
    shown = picture(np.zeros((3, 224, 112), np.uint8))
    assert (shown.width, shown.height, shown.pixelated) == (56, 112, False)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_than_three_channels_are_shown_in_grey(channels: int) -> None:
    assert picture(np.full((channels, 8, 8), 9, np.uint8)).width == 80


@pytest.mark.parametrize("image", [np.zeros((1, 8, 8)), np.zeros((8, 8), np.uint8), np.zeros((1, 0, 8), np.uint8)])
def test_what_is_not_an_image_is_refused(image: Any) -> None:
    with pytest.raises(ClovenError, match="must be uint8 of shape"):
        picture(image)


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _mixed(one: str, other: str, share: float) -> str:
    channels = ((int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in channels)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_have_enough_contrast(theme: int) -> None:
    css = (files("cloven.reporting") / "page.css.j2").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", blocks[theme]))
    for ground in ("paper", "target", "wash"):
        for text in ("ink", "muted", "alert"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    depth = max(int(share) for share in re.findall(r"\.h\d .*?var\(--heat\) (\d+)%", css)) / 100
    assert _contrast(colours["ink"], _mixed(colours["heat"], colours["paper"], depth)) >= 4.5
    for mark in ("vertical", "horizontal", "data", "other"):
        assert _contrast(colours[mark], colours["paper"]) >= 4.5, mark


def test_a_page_of_many_findings_shows_those_that_leak_most_and_says_what_is_missing() -> None:
    whole = document(summary(60))
    short = most_exposed(whole, 20)
    leaks = {one.observation: (one.crosses, one.exposed, one.leaks) for one in whole.observations}
    kept = {one.observation for one in short.observations}

    assert 0 < len(short.findings) <= 20
    assert min(leaks[name] for name in kept) >= max(leaks[name] for name in leaks if name not in kept)
    assert {finding.observation for finding in short.findings} == kept
    left = len({finding.observation for finding in whole.findings}) - len(kept)
    assert f"leaves out the {left} of" in short.warnings[-1]
    assert most_exposed(whole, 60) is whole
