"""The page in a real browser: it fits, follows light and dark, and the console stays quiet.

A window is never narrower than 500 pixels in headless Chromium, so a phone is a frame of its width.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.reporting import advices
from tests.reporting.summaries import captured, laddered, samples, summary
from tests.reporting.summaries import page as render

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium on the PATH")

WIDTHS = (360, 390, 768, 1200, 1440)
PAPER = {"light": (251, 250, 247), "dark": (20, 23, 28)}
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')

# Says to the frame around it how wide the page is, and which words of a chart collide or leave it.
MEASURE = """<script>
addEventListener("load", () => {
  const charts = [...document.querySelectorAll(".chart")];
  let collisions = [], outside = [];
  for (const chart of charts) {
    const frame = chart.getBoundingClientRect();
    const words = [...chart.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    words.forEach(([one, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1) outside.push(one);
      words.slice(i + 1).forEach(([other, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 0 && high > 3) collisions.push(one + " / " + other);
      });
    });
  }
  const shown = [...document.querySelectorAll(".chart text")].map(text => text.textContent);
  const cut = shown.filter(text => text.includes("…"));
  const smallest = Math.min(...[...document.querySelectorAll("img")].map(img => img.getBoundingClientRect().width));
  const drawn = [...document.querySelectorAll(".division, .station, .tap, .faces, .axis, .steps, .quantities dd")];
  const clipped = drawn.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className);
  parent.postMessage({
    page: location.pathname.split("/").pop(), width: innerWidth, needed: document.documentElement.scrollWidth,
    charts: charts.length, collisions, outside, cut, smallest, clipped
  }, "*");
});
</script>"""

COLLECT = """<!doctype html><title>frames</title><pre id="heard"></pre><script>
const heard = [];
addEventListener("message", event => {
  heard.push(event.data);
  document.getElementById("heard").textContent = JSON.stringify(heard);
});
</script>"""


def _browse(folder: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = folder / f"profile-{len(list(folder.iterdir()))}"
    quiet = ("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        "--disable-sync",
        "--hide-scrollbars",
    ]
    command += [f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _written(folder: Path, name: str, text: str) -> Path:
    page = folder / name
    page.write_text(text, encoding="utf-8")
    return page


Measures = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> Measures:
    """The measures of each of `PAGES` at each width, all folds open, by one start of the browser."""
    folder = tmp_path_factory.mktemp("pages")
    frames = []
    for name, made in PAGES.items():
        opened = (
            POLICY.sub("", made())
            .replace("<details>", "<details open>")
            .replace("<details class", "<details open class")
            .replace("</body>", f"{MEASURE}</body>")
        )
        inner = _written(folder, name, opened).as_uri()
        frames += [f'<iframe src="{inner}" width="{w}" height="900" style="border:0"></iframe>' for w in WIDTHS]
    outer = _written(folder, "outer.html", COLLECT + "".join(frames))
    dumped = _browse(folder, outer, "--dump-dom", "--virtual-time-budget=20000", "--window-size=1500,1000").stdout
    heard = re.search(r'<pre id="heard">(.*?)</pre>', dumped, flags=re.DOTALL)
    assert heard is not None
    found: Measures = {name: [] for name in PAGES}
    for one in json.loads(html.unescape(heard[1])):
        found[one["page"]].append(one)
    for mine in found.values():
        assert sorted(one["width"] for one in mine) == sorted(WIDTHS)
    return found


def _page(**changes: Any) -> str:
    return _rendered(summary(**changes))


def _rendered(given: dict[str, Any]) -> str:
    return render(given, samples(given))


@cache
def _usual() -> str:
    return _page()


def _encrypted() -> str:
    """The page of a plan: its second link is encrypted, and its third was not attacked."""
    given = summary()
    given["programs"] = given["programs"][:1]
    found = [finding for finding in given["findings"] if finding["strategy"] == "vertical"]
    found[1]["protection"] = ["ascon-aead128"]
    return _rendered(given | {"findings": found[:2], "observations": given["observations"][:2]})


def _enclave() -> str:
    """The page of an enclave: two devices, of which the first is trusted."""
    given = summary()
    plan = given["programs"][0]
    ends = ["enclave", "accelerator"]
    link = {"link": ends, "links": [ends]}
    parts = [{**plan["parts"][i], "device": name, "trusted": i == 0} for i, name in enumerate(ends)]
    sent = {**plan["links"][1], "link": ends}
    found, seen = given["findings"][0] | link, given["observations"][0] | link
    given |= {"programs": [plan | {"parts": parts, "links": [sent], "transfers": []}]}
    return _rendered(given | {"findings": [found], "observations": [seen]})


def _long_names_of_attacks() -> str:
    given = laddered(attacks=("A" * 90, "B" * 90, "probe"))
    long = {"transform": "T" * 90, "label": "L" * 90, "layers": ["W" * 90], "strategy": "s" * 90}
    long |= {"link": ["e" * 90, "f" * 90], "notes": ["n" * 400], "flags": ["f" * 400]}
    for row in (*given["findings"], *given["observations"], *given["curves"], *given["defences"]):
        row |= {name: value for name, value in long.items() if name in row}
    return _rendered(given)


def _long_names() -> str:
    given = summary(model="m" * 200, data="d" * 200, notes=["n" * 500], settings={"s" * 90: "v" * 300})
    given["attacker"]["sentence"] = "a" * 400
    for finding in given["findings"]:
        finding |= {"label": "L" * 90, "layers": ["W" * 90], "link": ["e" * 90, "f" * 90], "share": ["9" * 200]}
        finding |= {"attack": "k" * 90, "strategy": finding["strategy"] * 9}
    for plan in given["programs"]:
        plan["title"] = "t" * 200
        for transfer in plan["transfers"]:
            transfer |= {"source": "e" * 90, "value": "v" * 200, "share": "0" * 200}
    for ordering in given["orderings"]:
        ordering["sentence"] = "o" * 300
    return _rendered(given)


def _too_wide() -> str:
    bad = '<style>.chart text { font-size: 60px !important }</style><main><div style="width: 2000px">wide</div>'
    return _usual().replace("<main>", bad)


PAGES: Mapping[str, Callable[[], str]] = {
    "usual.html": _usual,
    "ladder.html": lambda: _rendered(laddered()),
    "attacks.html": _long_names_of_attacks,
    "encrypted.html": _encrypted,
    "enclave.html": _enclave,
    "capture.html": lambda: _rendered(captured(protected=True)),
    "names.html": _long_names,
    "advice.html": lambda: advices.page(advices.advice()),
    "advice-refused.html": lambda: advices.page(advices.refused(), attacked=False),
    "advice-alone.html": lambda: advices.page(advices.alone(), attacked=False),
    "advice-star.html": lambda: advices.page(advices.star(), attacked=False),
    "advice-names.html": lambda: advices.page(advices.long_names()),
    "wide.html": _too_wide,
}


def test_no_width_scrolls_sideways_and_no_words_collide(measures: Measures) -> None:
    for one in measures["usual.html"]:
        assert one["needed"] <= one["width"], one
        assert one["charts"] == 2
        assert one["collisions"] == []
        assert one["outside"] == []
        assert one["cut"] == []
        assert one["smallest"] >= 56


@pytest.mark.parametrize("name", ["usual.html", "encrypted.html", "enclave.html", "capture.html"])
def test_the_first_screen_fits_every_width(measures: Measures, name: str) -> None:
    for one in measures[name]:
        assert one["needed"] <= one["width"], one
        assert one["clipped"] == [], one


@pytest.mark.parametrize("made", [_encrypted, _enclave])
def test_the_first_screen_makes_no_request_and_no_error(tmp_path: Path, made: Callable[[], str]) -> None:
    page = _written(tmp_path, "page.html", made())
    assert "CONSOLE" not in _browse(tmp_path, page, "--dump-dom", "--enable-logging=stderr").stderr


def test_a_suite_of_attacks_fits_every_width(measures: Measures) -> None:
    for one in measures["ladder.html"]:
        assert one["needed"] <= one["width"], one
        assert one["charts"] == 8
        assert one["collisions"] == []
        assert one["outside"] == []
        assert one["cut"] == []


def test_long_names_of_attacks_and_transforms_do_not_widen_the_page(measures: Measures) -> None:
    for one in measures["attacks.html"]:
        assert one["needed"] <= one["width"], one
        assert one["collisions"] == []
        assert one["outside"] == []


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("advice")])
def test_an_advice_fits_every_width(measures: Measures, name: str) -> None:
    for one in measures[name]:
        assert one["needed"] <= one["width"], one
        assert one["charts"] == (2 if name == "advice-alone.html" else 3)
        assert one["collisions"] == []
        assert one["outside"] == []
        assert one["clipped"] == [], one


ACTED = """<script>
const told = () => document.querySelector(".told-by .told").textContent;
const column = () => [...document.querySelector("#compared tbody").rows].map(row => row.cells[1].dataset.value);
const heading = document.querySelectorAll("#compared thead button")[1];
const mark = document.querySelector(".chart a[data-of='0']");
const before = told();
mark.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
const named = told(), lit = document.querySelectorAll(".lit").length;
mark.dispatchEvent(new PointerEvent("pointerout", { bubbles: true }));
heading.click();
const up = column();
heading.click();
const down = column();
const buttons = [...document.querySelectorAll(".choices button")];
const hidden = () => document.querySelectorAll("#pictures .unchosen").length;
buttons[1].click();
const albums = [...document.querySelectorAll("#pictures .album")].map(album => album.matches(".unchosen"));
document.body.innerHTML = "<pre id='heard'></pre>";
document.getElementById("heard").textContent = JSON.stringify({
  before, named, lit, up, down, sorted: heading.closest("th").getAttribute("aria-sort"), albums, after: hidden()
});
</script>"""


def test_the_page_of_an_advice_sorts_names_and_chooses(tmp_path: Path) -> None:
    made = POLICY.sub("", advices.page(advices.advice())).replace("</body>", f"{ACTED}</body>")
    dumped = _browse(tmp_path, _written(tmp_path, "page.html", made), "--dump-dom").stdout
    heard = re.search(r"<pre id=\"heard\">(.*?)</pre>", dumped, flags=re.DOTALL)
    assert heard is not None
    found = json.loads(html.unescape(heard[1]))

    assert advices.PLAN in found["named"]
    assert found["named"] != found["before"]
    assert found["lit"] == 2  # the same division in both charts
    values = [float(value) for value in found["up"][:-1]]
    assert values == sorted(values)
    assert [float(value) for value in found["down"][:-1]] == values[::-1]
    assert found["up"][-1] == found["down"][-1] == ""  # what is unknown stays last
    assert found["sorted"] == "descending"
    assert found["albums"] == [True, False]


def test_the_policy_of_an_advice_allows_its_own_script_and_no_other(tmp_path: Path) -> None:
    added = '<script>document.title = "ran"</script>'
    page = _written(tmp_path, "page.html", advices.page(advices.advice()).replace("</body>", f"{added}</body>"))
    seen = _browse(tmp_path, page, "--dump-dom", "--enable-logging=stderr")

    assert "<title>ran</title>" not in seen.stdout
    assert seen.stderr.count("CONSOLE") == 1
    assert '<button type="button">Latency</button>' in seen.stdout


def test_a_capture_fits_every_width(measures: Measures) -> None:
    for one in measures["capture.html"]:
        assert one["needed"] <= one["width"], one
        assert one["collisions"] == []


def test_long_names_do_not_widen_the_page(measures: Measures) -> None:
    for one in measures["names.html"]:
        assert one["needed"] <= one["width"], one
        assert one["collisions"] == []
        assert one["outside"] == []


def test_the_measure_sees_a_page_that_is_too_wide_and_words_that_collide(measures: Measures) -> None:
    for one in measures["wide.html"]:
        assert one["needed"] > one["width"]
        assert one["collisions"]
        assert one["outside"]


@pytest.mark.parametrize("verdict", [True, False])
def test_the_console_stays_quiet(tmp_path: Path, verdict: bool) -> None:
    page = _written(tmp_path, "page.html", _page(verdict={"given": verdict, "reason": None}))
    assert "CONSOLE" not in _browse(tmp_path, page, "--dump-dom", "--enable-logging=stderr").stderr


def test_the_page_would_refuse_a_script_and_a_picture_from_elsewhere(tmp_path: Path) -> None:
    added = '<script>document.title = "ran"</script><img src="http://127.0.0.1:9/x.png" alt="">'
    page = _written(tmp_path, "page.html", _usual().replace("</body>", f"{added}</body>"))
    seen = _browse(tmp_path, page, "--dump-dom", "--enable-logging=stderr")
    assert "<title>ran</title>" not in seen.stdout
    assert seen.stderr.count("CONSOLE") == 2


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1200, "light")])
def test_the_page_follows_light_and_dark(tmp_path: Path, theme: str, width: int) -> None:
    from PIL import Image

    page = _written(tmp_path, "page.html", _usual())
    if width < 500:
        frame = (
            f'<body style="margin:0"><iframe src="{page.as_uri()}" width="{width}" height="1600" style="border:0">'
        )
        page = _written(tmp_path, "phone.html", frame)
    picture = tmp_path / f"{theme}-{width}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    _browse(tmp_path, page, scheme, f"--window-size={max(width, 500)},1600", f"--screenshot={picture}")
    with Image.open(picture) as opened:
        shown = opened.convert("RGB").crop((0, 0, width, opened.height))
        assert shown.height >= 1400
        colours = shown.getcolors(shown.width * shown.height)
    assert colours is not None
    assert max(colours)[1] == PAPER[theme]
    assert len(colours) > 50
