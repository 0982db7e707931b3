"""The page in a browser: Debian's Chromium without a window, driven by selenium.

apt-get install chromium chromium-driver
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import report_page
from tvm_practice.common import accesses, cache
from tvm_practice.report import ladders, page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("TVM_PRACTICE_AS_SHIPPED") != "1",
    reason="there is no browser here; on Debian, apt-get install chromium chromium-driver",
)

WIDTHS = (320, 420, 768, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    assert BROWSER and DRIVER, (
        "these tests need a browser: apt-get install chromium chromium-driver"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",  # in a container everybody is root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


def show(
    browser: Any,
    path: Path | None = None,
    width: int = 1400,
    scheme: str = "light",
    motion: str = "no-preference",
) -> None:
    """Load the page at a width, for a reader with these preferences."""
    path = path or report_page.made()
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": name, "value": value} for name, value in features.items()]},
    )
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())


def find(browser: Any, selector: str) -> Any:
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def keys() -> Any:
    from selenium.webdriver.common.keys import Keys

    return Keys


SET = """
function set(selector, value) {
  const input = document.querySelector(selector);
  input.value = value;
  input.dispatchEvent(new Event("input"));
}
function counted(name) {
  const rows = [...document.querySelectorAll(`#${name} .counts tbody tr`)];
  const number = (cell) => [cell.querySelector("b"), cell.querySelector("small")]
    .map((one) => Number(one.textContent.replace(/[^0-9]/g, "")));
  return Object.fromEntries(rows.map((row) =>
    [row.dataset.array, [...row.querySelectorAll("td")].map(number)]));
}
"""


# ------------------------------------------------------------------------------------------ offline


def test_it_opens_without_a_network_and_without_a_complaint(browser) -> None:
    import json

    show(browser)
    find(browser, "#matmul .play").click()
    time.sleep(0.5)
    assert browser.get_log("browser") == []
    sent = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    own = report_page.made().as_uri()
    assert own in sent
    assert [url for url in sent if url != own and not url.startswith("data:")] == []
    # Nor could it ask for anything: its own policy forbids it.
    refused = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://localhost/').then(() => done('sent'), (error) => done(String(error)))"
    )
    assert "TypeError" in refused
    assert "Content Security Policy" in str(browser.get_log("browser"))


def test_what_a_file_says_of_a_machine_cannot_end_the_script(browser, tmp_path) -> None:
    hostile = "</script><script>window.taken = 1</script><!-- & &amp;"
    text = report_page.made().read_text()
    content = report_page.data(report_page.made())
    content["ladders"][0]["measured"][0]["machine"] = hostile
    start = text.index('id="data">') + len('id="data">')
    path = tmp_path / "hostile.html"
    path.write_text(text[:start] + page.embedded(content) + text[text.index("</script>", start) :])
    show(browser, path)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.taken") is None
    assert hostile in find(browser, "#matmul .from").text


def test_a_page_without_a_time_or_with_a_ladder_that_could_not_be_drawn_opens(
    browser, tmp_path
) -> None:
    found = report_page.data(report_page.made())["ladders"]
    for one in found:
        one |= {"measured": [], "explained": None}
    found[2] |= {"steps": [], "levels": [], "told": "This ladder could not be drawn."}
    content = {
        "made": "now",
        "machine": {"cpu": "a", "llvm_cpu": "b", "threads": 1, "tvm": "0"},
        "ladders": found,
        "curves": [],
        "search": "tvm-practice run auto_tune",
        "progress": {"lessons": [], "solved": 0, "total": 0, "trouble": ""},
        "trouble": [],
    }
    path = tmp_path / "empty.html"
    page.write(path, page.html(content))
    show(browser, path)
    assert browser.get_log("browser") == []
    told = find(browser, "body").text
    assert told.count("Not measured yet") == 1 + len(found)
    assert "No search is on record yet" in told and "could not be drawn" in told
    find(browser, "#fused_gelu .next").send_keys(keys().ENTER)
    assert "1 of" in find(browser, "#fused_gelu .call").text


# --------------------------------------------------------------------------------------- the slider


def nest(browser, name: str = "matmul") -> list[tuple[str, str]]:
    """The lines of the nest that is shown, with their marks."""
    script = """return [...document.querySelectorAll(`#${arguments[0]} .lines li`)].map((item) =>
        [item.querySelector(".mark").textContent, item.querySelector(".text").textContent])"""
    return [
        (mark.replace("\N{MINUS SIGN}", "-"), text)
        for mark, text in browser.execute_script(script, name)
    ]


def test_the_slider_moves_the_nest_by_keyboard(browser) -> None:
    show(browser)
    steps = report_page.data(report_page.made())["ladders"][0]["steps"]
    slider = find(browser, "#matmul .step")

    def shown(number: int) -> None:
        want = [(mark, text) for mark, _, text in steps[number]["lines"]]
        assert nest(browser) == want
        call = find(browser, "#matmul .call").text
        assert steps[number]["call"] in call and steps[number]["part"] in call
        changes = find(browser, "#matmul .changes").text
        assert all(sentence in changes for sentence in steps[number]["changes"])
        assert slider.get_attribute("aria-valuetext").startswith(f"{number} of {len(steps) - 1}")

    shown(0)
    for number in (1, 2, 3):
        slider.send_keys(keys().ARROW_RIGHT)
        shown(number)
    assert {mark for mark, _ in nest(browser)} == {"", "+", "-"}
    slider.send_keys(keys().END)
    shown(len(steps) - 1)
    slider.send_keys(keys().ARROW_LEFT)
    shown(len(steps) - 2)
    slider.send_keys(keys().HOME)
    shown(0)
    find(browser, "#matmul .next").send_keys(keys().ENTER)
    shown(1)
    find(browser, "#matmul .previous").click()
    shown(0)
    find(browser, "#matmul .previous").click()
    shown(0)
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    slider.send_keys(keys().ARROW_RIGHT)
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", slider)
    assert outline == "solid", "what has the keyboard must be seen to have it"


# ------------------------------------------------------------------------------------ the animation


def test_every_step_of_every_ladder_misses_as_often_as_python_counted(browser) -> None:
    show(browser)
    for ladder in report_page.data(report_page.made())["ladders"]:
        name = ladder["name"]
        for number, step in enumerate(ladder["steps"]):
            found = browser.execute_script(
                SET + "set(`#${arguments[0]} .step`, arguments[1]);"
                "set(`#${arguments[0]} .position`, 1e9); return counted(arguments[0])",
                name,
                number,
            )
            want = {array: [[n, n] for n in counts] for array, counts in step["misses"].items()}
            assert found == want, (name, number, step["call"])
    assert browser.get_log("browser") == []


def test_the_count_is_right_in_the_middle_too_forwards_and_backwards(browser) -> None:
    """Against Python's own cache, at positions of the run; step 3 keeps nothing in registers."""
    show(browser)
    ladder = report_page.data(report_page.made())["ladders"][0]
    step = ladder["steps"][3]
    buffers = tuple(accesses.Buffer(**one) for one in step["program"]["buffers"])
    program = accesses.Program(buffers, tuple(step["program"]["loops"]), step["program"]["body"])
    levels = [cache.Level(**one) for one in ladder["levels"]]
    starts = ladders.first_lines(buffers, levels[0].line_bytes)
    run = accesses.trace(program)
    browser.execute_script(SET + "set('#matmul .step', 3)")
    for position in (1, 5000, 77777, 4321, 0):
        found = browser.execute_script(
            SET + "set('#matmul .position', arguments[0]); return counted('matmul')", position
        )
        want = {one.name: [0, 0, 0] for one in buffers}
        hierarchy = cache.Hierarchy(levels)
        for access in run[:position]:
            place, buffer = divmod(access >> 1, accesses.MOST_BUFFERS)
            missed = hierarchy.touch(starts[buffer] + place // 4)
            for n in range(missed + 1):
                want[buffers[buffer].name][n] += 1
        assert {name: [one for one, _ in cells] for name, cells in found.items()} == want, position
        told = find(browser, "#matmul .where").text
        assert told.startswith(f"{position:,} of {len(run):,} touches")


def position(browser) -> int:
    return int(find(browser, "#matmul .position").get_attribute("value"))


def test_play_and_pause(browser) -> None:
    show(browser)
    assert position(browser) == 0
    time.sleep(0.3)
    assert position(browser) == 0, "nothing plays by itself"
    play = find(browser, "#matmul .play")
    play.send_keys(keys().SPACE)
    time.sleep(0.6)
    assert "Pause" in play.text and play.get_attribute("aria-label") == "Pause the accesses"
    first = position(browser)
    assert first > 0
    time.sleep(0.3)
    play.send_keys(keys().SPACE)
    stopped = position(browser)
    assert stopped > first and "Play" in play.text
    time.sleep(0.3)
    assert position(browser) == stopped
    find(browser, "#matmul .one").click()
    assert position(browser) == stopped + 1
    scrub = find(browser, "#matmul .position")
    scrub.send_keys(keys().HOME)
    assert position(browser) == 0
    running = browser.execute_script("return document.querySelectorAll('.running').length")
    assert running == 0
    find(browser, "#matmul .one").click()
    values = browser.execute_script(
        "return [...document.querySelectorAll('#matmul .value')].map((one) => one.textContent)"
    )
    assert values == ["= 0"] * 3, "the loops around the first touch"


def test_who_asks_for_less_motion_gets_few_pictures(browser) -> None:
    watch = """const [done, seen] = [arguments[0], new Set()];
        document.querySelector("#matmul .play").click();
        const from = performance.now();
        (function look(now) {
          seen.add(document.querySelector("#matmul .position").value);
          if (now - from < 2000) requestAnimationFrame(look); else done(seen.size);
        })(from);"""
    show(browser, motion="reduce")
    assert 2 <= browser.execute_async_script(watch) <= 6
    show(browser)
    assert browser.execute_async_script(watch) > 15


def test_the_picture_shows_where_the_lines_are(browser) -> None:
    """After the first touches, the elements of one line have the colour of L1, the others none."""
    show(browser)
    browser.execute_script(SET + "set('#matmul .position', 600)")
    pixels = """const canvas = document.querySelectorAll("#matmul canvas")[arguments[0]];
        const cell = canvas.width / 32;
        const context = canvas.getContext("2d");
        return arguments[1].map(([row, column]) =>
          [...context.getImageData(column * cell + 3, row * cell + 3, 1, 1).data].join());"""
    known = browser.execute_script(
        """const probe = document.createElement("canvas").getContext("2d");
        const style = getComputedStyle(document.documentElement);
        return ["far", "l1", "l2"].map((name) => {
          probe.fillStyle = style.getPropertyValue("--" + name);
          probe.fillRect(0, 0, 1, 1);
          return [...probe.getImageData(0, 0, 1, 1).data].join();
        });"""
    )
    far, _, second = known
    assert browser.execute_script(pixels, 1, [[0, 31], [31, 31]]) == [far, far]
    assert browser.execute_script(pixels, 0, [[5, 5]]) == [far]
    assert second in browser.execute_script(pixels, 1, [[row, 0] for row in range(32)])


# ------------------------------------------------------------------------------- nothing is cut off

OUTSIDE = """
const width = document.documentElement.clientWidth;
const told = [];
const visible = (one) => one.checkVisibility({ visibilityProperty: true });
for (const one of document.querySelectorAll("body *")) {
  if (!visible(one) || one.closest(".skip")) continue;
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const box = one.getBoundingClientRect();
  const what = `${one.tagName} ${one.getAttribute("class") ?? ""}: ${one.textContent.slice(0, 40)}`;
  if (own && (box.left < -0.5 || box.right > width + 0.5)) told.push(`beyond the page: ${what}`);
  const clips = getComputedStyle(one).overflowX !== "visible" && !(one instanceof SVGElement);
  if ((clips || one.tagName === "BUTTON") && one.scrollWidth > one.clientWidth + 1) {
    told.push(`cut: ${what}`);
  }
  if (one.tagName === "SELECT") {
    const free = one.parentNode.appendChild(one.cloneNode(true));
    free.value = one.value;
    free.style.cssText = "max-width: none; width: auto; position: absolute";
    if (free.offsetWidth > one.offsetWidth + 1) told.push(`cut: ${what}`);
    free.remove();
  }
}
for (const text of document.querySelectorAll("svg text")) {
  const [box, frame] = [text, text.ownerSVGElement].map((one) => one.getBoundingClientRect());
  if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1 ||
      box.top < frame.top - 1) told.push(`beyond its picture: ${text.textContent}`);
}
for (const svg of document.querySelectorAll("svg")) {
  const texts = [...svg.querySelectorAll("text")].map((one) => [one, one.getBoundingClientRect()]);
  texts.forEach(([one, a], n) => texts.slice(n + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 4) told.push(`over another: ${one.textContent}, ${other.textContent}`);
  }));
}
for (const word of document.querySelectorAll(".command span")) {
  if (word.getClientRects()[0].height > 1.6 * parseFloat(getComputedStyle(word).lineHeight)) {
    told.push(`broken in the middle: ${word.textContent}`);
  }
}
return told;
"""


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product(WIDTHS, SCHEMES)))
def test_no_text_is_cut(browser, width, scheme) -> None:
    show(browser, width=width, scheme=scheme)
    browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    )
    lengths = [len(one["steps"]) for one in report_page.data(report_page.made())["ladders"]]
    for share in (0, 0.2, 0.6, 1):
        for one, length in zip(ladders.LADDERS, lengths, strict=True):
            browser.execute_script(
                SET + "set(arguments[0], arguments[1]); set(arguments[2], 9e3)",
                f"#{one.name} .step",
                round(share * (length - 1)),
                f"#{one.name} .position",
            )
        needed, there = browser.execute_script(
            "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
        )
        assert needed <= there <= width
        assert browser.execute_script(OUTSIDE) == []


# ---------------------------------------------------------------------------------- for everybody

NAMELESS = """
const told = [];
for (const one of document.querySelectorAll("input, select, button, a")) {
  const name = one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent;
  if (!name.trim()) told.push(one.outerHTML);
}
for (const one of document.querySelectorAll("canvas, svg, img")) {
  const named = one.getAttribute("aria-label") && one.getAttribute("role") === "img";
  if (!named) told.push(one.outerHTML);
}
const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
if (new Set(ids).size !== ids.length) told.push("an id is there twice");
for (const one of document.querySelectorAll("[aria-labelledby]")) {
  if (!document.getElementById(one.getAttribute("aria-labelledby"))) told.push(one.id);
}
let level = 0;
for (const one of document.querySelectorAll("h1, h2, h3, h4")) {
  if (+one.tagName[1] > level + 1) told.push(`${one.textContent}: a heading is left out above it`);
  level = +one.tagName[1];
}
if (!document.documentElement.lang || !document.title) told.push("language or title");
for (const one of document.querySelectorAll("table")) {
  if (one.querySelector("thead th:not([scope])")) told.push("a table's heading without a scope");
}
return told;
"""

FAINT = """
const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function channels(color) {
  probe.clearRect(0, 0, 1, 1);
  probe.fillStyle = color;
  probe.fillRect(0, 0, 1, 1);
  return probe.getImageData(0, 0, 1, 1).data;
}
const light = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, n) => {
  const share = color[n] / 255;
  return sum + weight * (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
}, 0);
const told = new Set();
const soft = channels(getComputedStyle(document.documentElement).getPropertyValue("--accent-soft"));
for (const one of document.querySelectorAll("body *")) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !one.checkVisibility() || one.closest("script, noscript, option, title")) continue;
  const style = getComputedStyle(one);
  const ink = light(channels(one instanceof SVGElement ? style.fill : style.color));
  const grounds = [];
  for (let at = one; at; at = at.parentElement) {
    if (getComputedStyle(at).backgroundImage !== "none") grounds.push(soft);
    const ground = channels(getComputedStyle(at).backgroundColor);
    if (ground[3] === 255) { grounds.push(ground); break; }
  }
  for (const ground of grounds.map(light)) {
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) told.add(`${ratio.toFixed(1)} ${one.tagName} ${one.getAttribute("class")}`);
  }
}
return [...told];
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_everything_has_a_name_and_can_be_read(browser, scheme) -> None:
    show(browser, scheme=scheme)
    browser.execute_script(SET + "set('#matmul .step', 3); set('#matmul .position', 9000)")
    assert browser.execute_script(NAMELESS) == []
    assert browser.execute_script(FAINT) == []


def test_every_control_is_reached_by_tab_and_shows_it(browser) -> None:
    from selenium.webdriver import ActionChains

    show(browser)
    wanted = browser.execute_script(
        "return [...document.querySelectorAll('a, button, input, select, summary')]"
        ".filter((one) => one.tabIndex >= 0 && one.checkVisibility()).length"
    )
    for _ in range(wanted):
        ActionChains(browser).send_keys(keys().TAB).perform()
        browser.execute_script(
            "const one = document.activeElement; one.dataset.reached = '1';"
            "const { outlineStyle, outlineWidth } = getComputedStyle(one);"
            "if (outlineStyle === 'none' || parseFloat(outlineWidth) < 2) one.dataset.hidden = '1'"
        )
    reached, hidden = browser.execute_script(
        "return ['[data-reached]', '[data-hidden]']"
        ".map((one) => document.querySelectorAll(one).length)"
    )
    assert (reached, hidden) == (wanted, 0)


def test_a_run_can_be_chosen_and_the_current_step_is_marked(browser) -> None:
    show(browser)
    measured = report_page.data(report_page.made())["ladders"][0]["measured"]
    assert measured, "benchmarks/cpu.json is part of the course"
    for number, run in enumerate(measured):
        browser.execute_script(SET + "set('#matmul .run', arguments[0])", number)
        browser.execute_script(SET + "set('#matmul .step', 3)")
        assert run["file"] in find(browser, "#matmul .from").text
        assert run["machine"] in find(browser, "#matmul .from").text
        rows = browser.execute_script(
            "return [...document.querySelectorAll('#matmul .times tbody th')].map((one) => "
            "[one.textContent, one.parentNode.getAttribute('aria-current')])"
        )
        assert [name for name, _ in rows] == [one["name"] for one in run["times"]]
        marked = [name for name, current in rows if current]
        assert marked == [name for name, _ in rows if name == "2.1 tile"]
