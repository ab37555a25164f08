"""What the documents say is so: figures are those of the metrics files, links, paths, functions and commands exist."""

import argparse
import ast
import re
import shlex
import subprocess
import tomllib

import figures_in_docs
import pytest
from paths import ROOT

import mlanet_lib
from mlanet_lib.cli.__main__ import build_parser
from mlanet_lib.files.project import read_yaml

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
TODAY = {name: text for name, text in DOCUMENTS.items() if name not in ("docs/history.md", "CHANGELOG.md")}
TRACKED = ("mlanet_lib", "docs", "tests", "benchmarks", "notebooks", "profiles", "store")
PARAMETERS = read_yaml(ROOT / "params.yaml")
every_document = pytest.mark.parametrize("name", DOCUMENTS)
every_document_of_today = pytest.mark.parametrize("name", TODAY)


def blocks(text):
    return re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.M | re.S)


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def metrics_are_committed():
    """Whether outputs/metrics holds what git has: whoever ran another study need not have the documents' figures."""
    found = subprocess.run(
        ["git", "status", "--porcelain", "--", "outputs/metrics"], cwd=ROOT, capture_output=True, text=True
    )
    return found.returncode == 0 and not found.stdout.strip()


def is_a_parameter(key):
    found = PARAMETERS
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


@pytest.mark.parametrize("path", figures_in_docs.documents(), ids=lambda path: path.name)
def test_no_figure_is_stale(path):
    _, stale = figures_in_docs.fill(path.read_text(encoding="utf-8"))
    if not metrics_are_committed():
        shipped = [path.stem for path in (ROOT / "docs" / "metrics").glob("*.json")]
        stale = [marker for marker in stale if re.search(r"<!--(figure|table \w+) (\w+)", marker)[2] in shipped]
    assert not stale, "run make figures"


def test_a_figure_that_was_edited_is_found():
    marker = "<!--figure aflw2000_dev.images d-->"
    assert figures_in_docs.fill(f"{marker}201<!---->") == (f"{marker}200<!---->", [marker])
    table = "<!--table likeness likeness_portraits-->"
    text, stale = figures_in_docs.fill(f"{table}\n| 1.00 |\n<!--end-->")
    assert stale == [table] and "1.00" not in text and figures_in_docs.fill(text) == (text, [])


def test_metrics_of_the_shipped_weights_name_no_place_of_any_machine():
    for path in (ROOT / "docs" / "metrics").glob("*.json"):
        assert not re.search(r'"/|[A-Z]:\\\\', path.read_text(encoding="utf-8"))


def test_what_is_read_first_is_short():
    assert len(DOCUMENTS["README.md"].splitlines()) <= 120
    assert len(DOCUMENTS["MODEL_CARD.md"].splitlines()) <= 150


@every_document
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name]):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), target


@every_document_of_today
def test_paths_exist(name):
    texts = inline_code(DOCUMENTS[name]) + blocks(DOCUMENTS[name])
    for text in texts:
        for path in re.findall(rf"(?<![\w/.])(?:{'|'.join(TRACKED)})/[\w./-]*", text):
            if not re.search(r"[A-Z]{3}", path.removesuffix("README.md")):  # NAME: whatever one has
                assert (ROOT / path).exists(), path


def test_the_map_of_the_library_is_that_of_its_imports():
    floors = []
    for bar, name in re.findall(r"^    (\| )?([a-z_]+) {2,}\S", mlanet_lib.__doc__, re.M):
        if bar:
            floors[-1].add(name)
        else:
            floors.append({name})
    (contract,) = [
        contract
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    assert floors == [set(layer.split(" | ")) for layer in contract["layers"]]


@every_document_of_today
def test_functions_exist(name):
    """`package.module.Class.method` names something in mlanet_lib, unless it is a key of params.yaml."""
    packages = {path.stem for path in (ROOT / "mlanet_lib").iterdir() if path.stem[0] not in "_."}
    for code in inline_code(DOCUMENTS[name]):
        found = re.match(r"(?:mlanet_lib\.)?((\w+)(?:\.\w+)+)(?:\(|$)", code)
        if (
            not found
            or found[2] not in packages
            or found[1].endswith((".py", ".csv", ".dvc"))
            or is_a_parameter(found[1])
        ):
            continue
        place, parts = ROOT / "mlanet_lib", found[1].split(".")
        while parts and (place / parts[0]).is_dir():
            place /= parts.pop(0)
        if parts and (place / f"{parts[0]}.py").is_file():
            sources = [place / f"{parts.pop(0)}.py"]
        else:  # what the package re-exports is defined in one of its modules
            sources = sorted(place.glob("*.py"))
        named = {
            node.name
            for source in sources
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        assert named.issuperset(parts), code


def choices(parser):
    """The verbs below a parser, by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


@every_document_of_today
def test_commands_of_code_blocks_are_understood(name):
    for line in "".join(blocks(DOCUMENTS[name])).splitlines():
        if found := re.match(r"(?:\.venv/bin/)?mlanet (.+)", line):
            build_parser().parse_args(shlex.split(found[1], comments=True))


@every_document_of_today
def test_verbs_options_and_targets_named_in_the_text_exist(name):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for code in [*inline_code(DOCUMENTS[name]), *"".join(blocks(DOCUMENTS[name])).splitlines()]:
        if found := re.match(r"make ([a-z-]+)", code):
            assert found[1] in targets, code
        if found := re.match(r"mlanet ([a-z].*)", code):
            words, parser = found[1].split("#")[0].split(), build_parser()
            assert words[0] in choices(parser), code
            while words and (verbs := choices(parser)):
                assert words[0] in verbs, code
                parser = verbs[words.pop(0)]
            assert all(word in parser._option_string_actions for word in words if word.startswith("--")), code
