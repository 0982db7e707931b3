"""Make the README's picture of the report's page: `./practice python docs/make_page_picture.py`.

Times the ladder of phase 2 primitive by primitive, with the reference bodies and on a machine that
does nothing else; makes the page of that and of benchmarks/cpu.json; and takes a picture of its
first ladder, moved to its register tile, by Chromium: on Debian, apt-get install chromium
chromium-driver.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

from tvm_practice.report import page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PICTURE = DOCS / "report-page.png"
WIDTH = 1280
CHOSEN = "2.4 register tile"
# The middle of the run after the first primitive that belongs to the part; what the picture holds.
MOVE = """
const section = document.getElementById("matmul");
const [step, position] = [".step", ".position"].map((one) => section.querySelector(one));
const set = (input, value) => {
  input.value = value;
  input.dispatchEvent(new Event("input"));
};
set(step, arguments[0]);
set(position, 0.42 * position.max);
return section.querySelector("details").getBoundingClientRect().top + scrollY;
"""


def measured(root: Path) -> None:
    """Leave in a folder what a learner's runs would leave there."""
    (root / "reports").mkdir()
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks")
    explain = ["-m", "tvm_practice.explain", "2.5", "--solutions", "--json"]
    subprocess.run(
        [sys.executable, *explain, root / "reports" / "explain.json"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def pictured(file: Path, step: int) -> bytes:
    """The upper part of a page as PNG."""
    from selenium import webdriver

    browser_file, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser_file and driver):
        raise SystemExit("A browser is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser_file
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(file.as_uri())
        height = browser.execute_script(MOVE, step)
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        return b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])


def first_step(ladder: dict[str, Any], part: str) -> int:
    """The number of a part's vectorized loop, at which the picture shows most, else of its end."""
    numbers = [n for n, one in enumerate(ladder["steps"]) if one["part"] == part]
    vectors = [n for n in numbers if ladder["steps"][n]["call"].startswith("vectorize")]
    return vectors[0] if vectors else numbers[-1]


def main() -> None:
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="tvm_practice_picture_") as folder:
        measured(Path(folder))
        content = page.gathered(Path(folder), solutions=True)
        file = Path(folder) / "page.html"
        page.write(file, page.html(content))
        shot = pictured(file, first_step(content["ladders"][0], CHOSEN))
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size / 1e3
    print(f"{PICTURE.relative_to(ROOT)}: {image.width} x {image.height}, {size:.0f} kB")


if __name__ == "__main__":
    main()
