"""What a person sees, in a real Chromium: the report as a file without a network, and the notebook in JupyterLab."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from urllib.parse import urljoin

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from tiny_project import ROOT, environment
from toy_report import make_ablation, make_aflw, make_florence

from mlanet_lib.show import charts, viewer
from mlanet_lib.show.gallery import Gallery
from mlanet_lib.show.report.report import Inputs, build
from mlanet_lib.show.studio import SIDE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
LONGEST = 400  # seconds that one step may take on a busy machine


@pytest.fixture(scope="module")
def chromium():
    webgl = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # without a graphics card
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=webgl)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens an address: (the page, a list that grows by its errors and by what it asks of anybody else)."""
    contexts = []

    def open_page(address, width=1280, height=900, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        contexts[-1].set_default_timeout(1000 * LONGEST)
        page, wrong = contexts[-1].new_page(), []
        own = (urljoin(address, "/"), "data:", "blob:")

        def said(message):
            # JupyterLab's own questions to its server may fail on a busy machine, and are asked again
            if message.type == "error" and "/api/" not in message.location["url"]:
                wrong.append(f"{message.location['url']}: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(address)
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


def eventually(condition):
    until = time.monotonic() + LONGEST
    while not (holds := condition()) and time.monotonic() < until:
        time.sleep(0.2)
    assert holds


def pixels(locator, part=1):
    """What is seen of an element; the middle third of its height and width for part=3."""
    seen = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)
    height, width = (round(side * (1 - 1 / part) / 2) for side in seen.shape[:2])
    return seen[height : len(seen) - height, width : seen.shape[1] - width]


def colours(picture):
    return len(np.unique(picture.reshape(-1, 3), axis=0))


@pytest.fixture(scope="module")
def report(toy_model, tmp_path_factory):
    """The address of a whole report, with a face to turn."""
    history = pd.DataFrame({"step": [1, 2], "total": [2.0, 1.0], "val_nme": [9.0, 8.0]})
    images = pd.DataFrame({"nme": np.linspace(2, 9, 33), "nme constant": np.linspace(10, 30, 33)})
    figure = charts.level_weights({"identity": [0.25] * 4}, [1, 2, 3, 4])
    rainbow = np.linspace([1, 0.2, 0.2], [0.2, 0.2, 1], len(toy_model.mean))
    face = viewer.mesh_figure(toy_model.mean.numpy(), toy_model.faces.numpy(), rainbow)
    gallery = Gallery([("Best", figure, "the best")], figure, viewer=face, viewer_caption="turn me")
    results = make_aflw(), images, make_florence(), make_ablation(), history
    return build(Inputs(*results, {"profile": "embedded"}, gallery), tmp_path_factory.mktemp("r") / "r.html").as_uri()


def test_the_report_is_quiet_offline_and_its_face_turns(report, visit):
    page, wrong = visit(report, offline=True)
    face = page.locator(".viewer")
    face.scroll_into_view_if_needed()
    eventually(lambda: colours(pixels(face, 3)) > 200)
    before, box = pixels(face, 3), face.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 10, steps=3)
    page.mouse.up()
    eventually(lambda: np.abs(pixels(face, 3) - before).mean() > 5)
    assert wrong == []


def test_the_report_fits_a_phone_and_shows_its_pictures(report, visit):
    page, wrong = visit(report, 390, 844, is_mobile=True, has_touch=True)
    eventually(lambda: colours(pixels(page.locator(".viewer"), 3)) > 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pictures = page.locator("img").evaluate_all("all => all.map(i => [i.alt, i.complete && i.naturalWidth])")
    assert len(pictures) > 5 and all(alt and width for alt, width in pictures)
    assert wrong == []


def test_a_table_sorts_by_its_headings(report, visit):
    page, _ = visit(report)
    table = page.locator("table").first
    heading = table.get_by_role("columnheader", name="0–30°")

    def order():
        return [name.split()[0] for name in table.locator("tbody td:first-child").all_inner_texts()]

    assert order() == ["MLANet", "constant", "oracle-pose"]
    heading.get_by_role("button").click()
    assert (order(), heading.get_attribute("aria-sort")) == (["oracle-pose", "MLANet", "constant"], "ascending")
    heading.get_by_role("button").press("Enter")
    assert (order(), heading.get_attribute("aria-sort")) == (["constant", "MLANet", "oracle-pose"], "descending")
    table.get_by_role("button", name="sparse NME").click()
    assert (order(), heading.get_attribute("aria-sort")) == (["constant", "MLANet", "oracle-pose"], None)
    published = page.locator("table", has_text="2DASL")  # one of its methods says the mean alone: it comes last
    published.get_by_role("button", name="0–30°").click()
    names = published.locator("tbody td:first-child").all_inner_texts()
    assert (names[0], names[-1]) == ("3DDFA_V2 (2020)", "SADRNet (2021)")


@pytest.fixture
def portrait():
    return min((ROOT / "data" / "portraits").glob("*.jpg"))


@pytest.fixture
def project(tmp_path):
    """A project with the one notebook, so that the checkout's own stays as it is."""
    if not (ROOT / "weights" / "ict.safetensors").is_file():
        pytest.skip("the shipped weights are not pulled: dvc pull weights.dvc")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_explore.ipynb", tmp_path / "notebooks")
    for name in ("params.yaml", "dvc.yaml", "profiles", "data", "weights", "mlanet_lib"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def lab(project):
    """What JupyterLab, in the project and with nobody's settings, says of itself: its url and token."""
    home = project / "jupyter"
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    own = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={project}"]
    with (project / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=project, env=environment(project) | own, stdout=log, stderr=log)
    try:
        eventually(lambda: server.poll() is not None or list((home / "runtime").glob("jpserver-*.json")))
        assert server.poll() is None, (project / "lab.log").read_text()
        (said,) = (home / "runtime").glob("jpserver-*.json")
        yield json.loads(said.read_text())
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_the_live_notebook_follows_a_hand_and_a_photo(lab, project, portrait, visit):
    page, wrong = visit(f"{lab['url']}lab/tree/notebooks/00_explore.ipynb?token={lab['token']}", 1400, 1000)
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()  # the kernel's line; without one a menu asks for it
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    failed = page.get_by_text("Traceback (most recent call last)")
    upload = page.get_by_role("button", name="a photo")
    upload.or_(failed).first.wait_for(state="attached")
    assert failed.all_inner_texts() == []

    picture, slider = page.locator("img.widget-image").first, page.locator(".widget-slider").first
    slider.scroll_into_view_if_needed()
    before = pixels(picture)
    slider.get_by_role("slider").press("End")
    eventually(lambda: np.abs(pixels(picture) - before).max() > 100)

    with page.expect_file_chooser() as chooser:
        upload.click()
    chooser.value.set_files(portrait)
    page.get_by_text(f"{portrait.name}: photo, overlay, mesh").wait_for()
    page.wait_for_function(f"[...document.querySelectorAll('img')].some(i => i.naturalWidth === {5 * SIDE})")

    page.get_by_role("tab", name="take it away").click()
    page.get_by_role("button", name="write OBJ and GLB").click()
    page.get_by_text(f"{portrait.stem}_0.glb").wait_for()
    assert (project / "faces" / f"{portrait.stem}_0.glb").read_bytes().startswith(b"glTF")
    assert wrong == []
