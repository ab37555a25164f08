"""What a person sees, in a real Chromium: the report as a file without a network, and the notebook in JupyterLab."""

import io
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from test_report import ablation, aflw, florence  # noqa: F401
from tiny_project import ROOT, environment

from mlanet_lib import charts, viewer, views
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.gallery import Gallery
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.report import Inputs, build
from mlanet_lib.studio import SIDE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
LONGEST = 180  # seconds that one step may take on a busy machine
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # without a graphics card


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=WEBGL)
        yield browser
        browser.close()


class Visit:
    """A page, with what it said to be wrong and what it asked for."""

    def __init__(self, context):
        context.set_default_timeout(1000 * LONGEST)
        self.page, self.errors, self.requests = context.new_page(), [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _said(self, message):
        # JupyterLab's own questions to its server may fail on a busy machine, and are asked again
        if message.type == "error" and "/api/" not in message.location["url"]:
            self.errors.append(f"{message.location['url']}: {message.text}")

    def asked(self, *allowed):
        """What it asked for that does not begin with one of `allowed`, nor is in the page itself."""
        return [address for address in self.requests if not address.startswith((*allowed, "data:", "blob:"))]


@pytest.fixture
def visit(chromium):
    """Opens `Visit`s, by the options of a browser's context; all of them are closed in the end."""
    contexts = []

    def open_one(width, height=900, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        return Visit(contexts[-1])

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def inputs(request):
    history = pd.DataFrame({"step": [1, 2], "total": [2.0, 1.0], "val_nme": [9.0, 8.0]})
    images = pd.DataFrame({"nme": np.linspace(2, 9, 33), "nme constant": np.linspace(10, 30, 33)})
    aflw, florence, variants = (request.getfixturevalue(name) for name in ("aflw", "florence", "ablation"))  # noqa: F811
    return Inputs(aflw, images, florence, {"variants": variants}, history, {"profile": "embedded", "seed": 7})


@pytest.fixture
def report(inputs, toy_model, tmp_path):
    """The address of a whole report, with a face to turn."""
    figure = charts.level_weights({"identity": [0.25] * 4})
    colours = np.linspace([1, 0.2, 0.2], [0.2, 0.2, 1], len(toy_model.mean))
    turned = viewer.mesh_figure(toy_model.mean.numpy(), toy_model.faces.numpy(), colours)
    inputs.gallery = Gallery([("Best", figure, "the best")], figure, viewer=turned, viewer_caption="turn me")
    return build(inputs, tmp_path / "report.html").as_uri()


def eventually(condition):
    until = time.monotonic() + LONGEST
    while not (holds := condition()) and time.monotonic() < until:
        time.sleep(0.2)
    assert holds


def pixels(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def middle(locator):
    """The middle third of what is seen of an element."""
    seen = pixels(locator)
    height, width = np.array(seen.shape[:2]) // 3
    return seen[height : 2 * height, width : 2 * width]


def colours(picture):
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def test_the_report_is_quiet_offline_and_its_face_turns(report, visit):
    visit = visit(1280)
    visit.page.context.set_offline(True)
    visit.page.goto(report)
    face = visit.page.locator(".viewer")
    face.scroll_into_view_if_needed()
    eventually(lambda: colours(middle(face)) > 200)
    before = middle(face)
    box, mouse = face.bounding_box(), visit.page.mouse
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 120, y + 10, steps=6)
    mouse.up()
    eventually(lambda: np.abs(middle(face) - before).mean() > 5)
    assert visit.errors == []
    assert visit.asked("file:") == []


def test_a_table_sorts_by_its_headings(inputs, visit, tmp_path):
    page = visit(1280).page
    page.goto(build(inputs, tmp_path / "report.html").as_uri())
    table = page.locator("table").first
    heading = table.get_by_role("columnheader", name="0–30°")

    def order():
        return [row.split()[0] for row in table.locator("tbody td:first-child").all_inner_texts()]

    assert order() == ["MLANet", "constant", "oracle-pose"]
    heading.get_by_role("button").click()
    assert (order(), heading.get_attribute("aria-sort")) == (["oracle-pose", "MLANet", "constant"], "ascending")
    heading.get_by_role("button").press("Enter")
    assert (order(), heading.get_attribute("aria-sort")) == (["constant", "MLANet", "oracle-pose"], "descending")
    table.get_by_role("button", name="sparse NME").click()
    assert order() == ["constant", "MLANet", "oracle-pose"]
    assert heading.get_attribute("aria-sort") is None


def test_the_report_fits_a_phone_and_shows_its_pictures(report, visit):
    visit = visit(390, 844, is_mobile=True, has_touch=True)
    visit.page.goto(report)
    eventually(lambda: colours(middle(visit.page.locator(".viewer"))) > 200)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    pictures = visit.page.locator("img").evaluate_all("all => all.map(i => [i.alt, i.complete && i.naturalWidth])")
    assert len(pictures) > 5 and all(alt and width for alt, width in pictures)
    assert visit.errors == []


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A picture of the mean face, for where no photo is at hand."""
    model = MorphableModel.load(ROOT / "data" / "face_models" / "anthropometric.npz")
    path = tmp_path_factory.mktemp("drawn") / "mean.png"
    Image.fromarray(views.textured(model, FaceParameters.neutral(model, 1), 400)).save(path)
    return path


@pytest.fixture
def portrait(request, drawn):
    """(a portrait, the folder of its detector): of the real data, or a drawn face that OpenCV's cascade finds."""
    try:
        folder = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return drawn, drawn.parent
    return folder / "portraits" / "001_smiling.jpg", folder / "face_detector"


@pytest.fixture
def project(tmp_path):
    """A project with the one notebook, so that the checkout's own stays as it is."""
    if not (ROOT / "weights" / "anthropometric.safetensors").is_file():
        pytest.skip("the shipped weights are not pulled: dvc pull data.dvc weights.dvc")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_explore.ipynb", tmp_path / "notebooks")
    for name in ("params.yaml", "dvc.yaml", "profiles", "data", "weights", "mlanet_lib"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def lab(project, portrait):
    """The address of JupyterLab in the project, with its token; no settings of the user's."""
    home = project / "jupyter"
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    folders |= {"IPYTHONDIR": str(home / "ipython"), "MLANET_MODELS": str(portrait[1])}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={project}"]
    with (project / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=project, env=environment(project) | folders, stdout=log, stderr=log)
    try:
        eventually(lambda: server.poll() is not None or list((home / "runtime").glob("jpserver-*.json")))
        assert server.poll() is None, (project / "lab.log").read_text()
        (said,) = (home / "runtime").glob("jpserver-*.json")
        yield json.loads(said.read_text())
    finally:
        server.terminate()
        server.wait(60)


def test_the_live_notebook_follows_a_hand_and_a_photo(lab, project, portrait, visit):
    visit = visit(1400, 1000)
    page = visit.page
    page.goto(f"{lab['url']}lab/tree/notebooks/00_explore.ipynb?token={lab['token']}")
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    upload = page.get_by_role("button", name="a photo")
    upload.wait_for(state="attached")

    picture, slider = page.locator("img.widget-image").first, page.locator(".widget-slider").first
    slider.scroll_into_view_if_needed()
    before = pixels(picture)
    assert colours(before) > 200
    slider.get_by_role("slider").press("End")
    eventually(lambda: np.abs(pixels(picture) - before).max() > 100)

    with page.expect_file_chooser() as chooser:
        upload.click()
    chooser.value.set_files(portrait[0])
    page.get_by_text(f"{portrait[0].name}: photo, overlay, mesh").wait_for()
    page.wait_for_function(f"[...document.querySelectorAll('img')].some(i => i.naturalWidth === {5 * SIDE})")

    page.get_by_role("tab", name="take it away").click()
    page.get_by_role("button", name="write OBJ and GLB").click()
    page.get_by_text(f"{portrait[0].stem}_0.glb").wait_for()
    assert (project / "faces" / f"{portrait[0].stem}_0.glb").read_bytes().startswith(b"glTF")
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert visit.errors == []
    assert visit.asked(lab["url"], lab["url"].replace("http", "ws")) == []
