"""params.yaml as a file: finding the project, merging profiles, restoring the embedded one byte for byte."""

import shutil

import pytest
from paths import ROOT
from ruamel.yaml import YAML

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import check_plain, find_root, parse_yaml, read_yaml
from mlanet_lib.study.params import load_params, variant_params
from mlanet_lib.study.profiles import (
    check_keys,
    merge,
    nested,
    parameter_keys,
    profile_names,
    profile_text,
    use_profile,
    walk,
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of what profiles need."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "profiles" / "embedded.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.delenv("MLANET_ROOT", raising=False)
    return tmp_path


def yaml_of(text):
    return YAML(typ="safe").load(text)


def test_root_is_found_from_a_subfolder_and_from_the_environment(project, tmp_path_factory, monkeypatch):
    deep = project / "notebooks" / "deeper"
    deep.mkdir(parents=True)
    assert find_root(deep) == find_root(project) == project
    monkeypatch.chdir(deep)
    assert find_root() == project
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match="no mlanet project at or above"):
        find_root()
    monkeypatch.setenv("MLANET_ROOT", str(project))
    assert find_root() == project


def test_the_committed_parameters_are_the_embedded_profile():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles" / "embedded.yaml").read_bytes()
    assert set(profile_names(ROOT)) >= {"embedded", "open", "paper"}


@pytest.mark.parametrize("name", ["open", "paper"])
def test_use_merges_keeps_comments_and_embedded_restores_every_byte(project, name):
    before = (project / "params.yaml").read_bytes()
    use_profile(name, project)
    text = (project / "params.yaml").read_text()
    values, changes = read_yaml(project / "params.yaml"), read_yaml(project / "profiles" / f"{name}.yaml")
    now = dict(walk(values))
    assert values["profile"] == name
    for key, value in walk(changes):
        assert isinstance(value, dict) or now[key] == value
    assert values["ablation"]["variants"] == changes["ablation"]["variants"]
    embedded = dict(walk(read_yaml(project / "profiles" / "embedded.yaml")))
    untouched = {key for key in embedded if not key.startswith("ablation") and key not in dict(walk(changes))}
    assert untouched and all(now[key] == embedded[key] for key in untouched)
    for comment in (
        "# highest learning rate of AdamW: warm-up, then a cosine",
        "# The whole configuration of the study.",
    ):
        assert comment in text
    use_profile("embedded", project)
    assert (project / "params.yaml").read_bytes() == before


def test_edits_by_hand_are_not_dropped_without_being_asked(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0\n", "seed: 5\n").replace("clip: 5.0 ", "clip: 7.0 "))
    edited = path.read_bytes()
    with pytest.raises(UserError, match=r"params.yaml was edited \(seed, train.clip\); --force drops these edits"):
        use_profile("open", project)
    assert path.read_bytes() == edited
    use_profile("open", project, force=True)
    assert read_yaml(path)["seed"] == 0
    # a comment or a space of one's own is no edit of a value
    use_profile("embedded", project)
    path.write_text(path.read_text() + "# mine\n")
    use_profile("embedded", project)
    assert b"# mine" not in path.read_bytes()


def test_unknown_profile_or_key_is_a_clear_line(project):
    with pytest.raises(UserError, match="no profile 'papr'; choose one of embedded, open, paper"):
        use_profile("papr", project)
    (project / "profiles" / "mine.yaml").write_text("profile: mine\ntrain: {lrr: 1}\n")
    with pytest.raises(UserError, match=r"profiles/mine.yaml: train.lrr is unknown, did you mean lr\?"):
        profile_text("mine", project)


def test_a_profile_builds_on_another(project):
    before = (project / "params.yaml").read_bytes()
    (project / "profiles" / "further.yaml").write_text(
        "base: open\nprofile: further\nface_model: {path: licensed/face_models/mine.npz}\n"
        "network: {start: weights/ict.safetensors}\ntrain: {steps: 800, lr: 5.0e-4}\n"
    )
    use_profile("further", project)
    text = (project / "params.yaml").read_text()
    values, own = read_yaml(project / "params.yaml"), read_yaml(project / "profiles" / "further.yaml")
    on_open = yaml_of(profile_text("open", project))
    now, was = dict(walk(values)), dict(walk(on_open))
    changed = {key for key in now if not isinstance(now[key], dict) and now[key] != was.get(key)}
    assert changed == {"profile", "face_model.path", "network.start", "train.steps", "train.lr"}
    assert all(now[key] == dict(walk(own))[key] for key in changed)
    assert values["ablation"]["variants"] == on_open["ablation"]["variants"]  # of open, none of its own
    params = load_params(project / "params.yaml")
    assert params.network.start and variant_params(params, "full")[0].start is None  # variants are other networks
    assert "base" not in values and "# highest learning rate of AdamW: warm-up, then a cosine" in text
    use_profile("embedded", project)
    assert (project / "params.yaml").read_bytes() == before


def test_of_a_chain_the_nearest_profile_counts(project):
    folder = project / "profiles"
    (folder / "near.yaml").write_text("base: far\nseed: 3\n")
    (folder / "far.yaml").write_text("base: embedded\nseed: 4\ntrain: {steps: 7}\n")
    values = yaml_of(profile_text("near", project))
    assert (values["seed"], values["train"]["steps"]) == (3, 7)
    (folder / "far.yaml").write_text("seed: 4\ntrain: {stepz: 7}\n")
    with pytest.raises(UserError, match=r"profiles/far.yaml: train.stepz is unknown, did you mean steps\?"):
        profile_text("near", project)
    (folder / "far.yaml").write_text("base: near\n")
    with pytest.raises(UserError, match=r"profiles/far.yaml: base: near builds on itself"):
        profile_text("near", project)
    (folder / "far.yaml").write_text("base: opne\n")
    with pytest.raises(
        UserError, match=r"profiles/far.yaml: no profile 'opne'; choose one of embedded, far, near, open"
    ):
        profile_text("near", project)


def test_bad_yaml_is_a_clear_line_with_its_place(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError, match=r"cannot read .*params.yaml: No such file"):
        read_yaml(path)
    path.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(UserError, match=r"params.yaml line \d is not YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(UserError, match="must hold names and values"):
        read_yaml(path)
    path.write_text("lr: 1e-4\n")
    assert read_yaml(path) == {"lr": 0.0001}


def test_merging_and_naming():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge(base, nested({"a.c": [9], "e": 4})) == {"a": {"b": 1, "c": [9]}, "d": 3, "e": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert dict(walk(base)) == {"a": {"b": 1, "c": [1, 2]}, "a.b": 1, "a.c": [1, 2], "d": 3}
    assert parameter_keys(base) == {"a": "a", "a_b": "a.b", "a_c": "a.c", "d": "d"}


def test_a_misspelt_key_is_named_with_the_one_that_was_meant():
    values = read_yaml(ROOT / "params.yaml")
    check_keys(values, ROOT)
    values["train"]["lrr"] = values["train"].pop("lr")
    with pytest.raises(UserError, match=r"params\.yaml: train\.lrr is unknown, did you mean lr\?"):
        check_keys(values, ROOT)


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("keep_comments", [False, True])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: \x07\n", "is not YAML: special characters are not allowed"),
        ('a: "\\a"', "a = '.x07' holds a control character"),
        ("a: &a\n  b: *a\n", "a never ends"),
        (BOMB, ". never ends: it is nested too deeply, or holds aliases of aliases"),
        ("a: " + "[" * 800, "is not YAML that can be read: it is nested too deeply"),
        ("a: " + "[" * 100 + "]" * 100, "a never ends"),
        ("a: 1\na: 2\n", "line 2 is not YAML: found duplicate key"),
        ("1: 2\n", "the key 1 is no text"),
        ("? [a, b]\n: 2\n", "the key .* is no text"),
        ("a: 2020-01-01\n", "a is no plain value but a (date|TimeStamp)"),
        ("a: 2020-13-45\n", "is not YAML that can be read: month must be"),
        ("a: !!python/object/apply:os.system [ls]\n", "a is no plain value|is not YAML: could not determine"),
        ("a: !foo 1\n", "a is no plain value|is not YAML: could not determine"),
        ("a: !!set {x}\n", "a is no plain value"),
        ("a: .nan\n", "a = nan: must be a finite number"),
        ("a: {b: [1, -.inf]}\n", "a.b = -inf: must be a finite number"),
        ("a: " + "1" * 5000, "is not YAML that can be read: Exceeds the limit"),
        ("a: 1\n---\nb: 2\n", "line 2 is not YAML: but found another document"),
    ],
)
def test_what_is_no_configuration_is_one_line(text, line, keep_comments):
    with pytest.raises(UserError, match=f"^params.yaml.*{line}") as caught:
        parse_yaml(text, "params.yaml", keep_comments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_files_that_are_no_text_and_ones_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match=r"cannot read .*params.yaml"):
        read_yaml(path)
    for empty in (b"", b"# nothing\n"):
        path.write_bytes(empty)
        with pytest.raises(UserError, match=r"^params.yaml must hold names and values$"):
            read_yaml(path)


def test_values_of_a_notebook_are_plain_too():
    check_plain({"a": [1, 2.5, "x", None, True, (1, 2)]}, "here")
    for value in (b"x", {1, 2}, 1j, object):
        with pytest.raises(UserError, match=r"^here: a\.b is no plain value but a "):
            check_plain({"a": {"b": value}}, "here")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: 5", "train must be names and values, not a whole number"),
        ("train: null", "train must be names and values, not null"),
        ("seed: 1.5", "seed must be a whole number, not a number"),
        ("seed: {a: 1}", "seed must be a whole number, not names and values"),
        ("train: {lr: fast}", "train.lr must be a number, not text"),
        ("train: {compile: 1}", "train.compile must be true or false, not a whole number"),
        ("network: {levels: [a]}", "network.levels must be a list, not a list|network.levels"),
        ("paths: {bfm: [1]}", "paths.bfm must be null, not a list"),
        ("ablation: {variants: {../../evil: {}}}", "ablation.variants: '../../evil' cannot be a file's name"),
        ("ablation: {variants: {mine: 5}}", "ablation.variants.mine must be names and values"),
        ("ablation: {variants: {mine: {train: {lr: fast}}}}", "ablation.variants.mine.train.lr must be a number"),
        ("ablation: {base: {train: {steps: {}}}}", "ablation.base.train.steps must be a whole number"),
        ("data: {sources: {mine: photos}}", "data.sources.mine must be names and values"),
        ("data: {sources: {a/b: {layout: crops}}}", "data.sources: 'a/b' cannot be a file's name"),
        ("benchmark: {others: {mine: {}}}", "benchmark.others.mine must be text"),
        ("train: {lr: .nan}", "train.lr = nan: must be a finite number"),
        ("train: !foo {lr: 1}", "is not YAML|is no plain value"),
    ],
)
def test_a_profile_that_would_leave_no_readable_file_is_refused_before_writing(project, text, line):
    (project / "profiles" / "mine.yaml").write_text(f"profile: mine\n{text}\n")
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=f"mine.yaml.*({line})") as caught:
        use_profile("mine", project)
    assert (project / "params.yaml").read_bytes() == before and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../x", "../profiles/open", "/etc/passwd", "", "open.yaml", "open\n"])
def test_a_profile_is_named_and_not_a_path(project, name):
    with pytest.raises(UserError, match=r"no profile .*; choose one of embedded, open"):
        use_profile(name, project)


def test_forms_of_the_embedded_profile_are_those_of_the_types():
    """A whole number stands in embedded.yaml where the type is one, else other profiles could not say a fraction."""
    params = load_params(ROOT / "profiles" / "embedded.yaml")
    for key, value in walk(read_yaml(ROOT / "profiles" / "embedded.yaml")):
        if isinstance(value, int | float) and not key.startswith("ablation.base"):
            typed = params
            for name in key.split("."):
                typed = getattr(typed, name)
            assert type(typed) is type(value), key


def test_the_users_own_names_are_known(project):
    values = read_yaml(project / "params.yaml")
    values["benchmark"]["others"] = {"3DDFA_V2": "points.npz"}
    values["data"]["sources"] = {"mine": {"layout": "crops", "path": "x"}}
    check_keys(values, project)
    values["ablation"]["variants"]["../evil"] = {}
    with pytest.raises(UserError, match=r"params.yaml: ablation.variants: '../evil' cannot be a file's name"):
        check_keys(values, project)


def test_a_value_for_a_section_and_one_within_it_exclude_each_other():
    with pytest.raises(UserError, match=r"train.lr and a value for all of train exclude each other"):
        nested({"train": 1, "train.lr": 2})
