"""The Makefile where there is no git (GitHub's ZIP), after a killed DVC, and for root; which tests its targets run."""

import importlib
import re
import shutil
import subprocess

import pytest
from tiny_project import ROOT, run

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make on this system")


def test_without_git_dvc_is_told_so_and_works(tmp_path):
    for name in (".dvc/config", "Makefile", "data.dvc", "dvc.yaml", "params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "store", tmp_path / "store")
    assert run(tmp_path, "git", "rev-parse", "--git-dir").code != 0
    assert run(tmp_path, "dvc", "pull", "data.dvc").code != 0
    assert run(tmp_path, "make", "--eval", "no-git: ; $(NO_GIT)", "no-git").code == 0
    pulled = run(tmp_path, "dvc", "pull", "data.dvc")
    assert pulled.code == 0 and (tmp_path / "data" / "face_models").is_dir(), pulled.text


def test_with_git_nothing_is_changed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert run(tmp_path, "make", "--eval", "no-git: ; $(NO_GIT)", "no-git").code == 0
    assert not (tmp_path / ".dvc").exists()


def test_every_target_that_asks_dvc_says_first_whether_there_is_git():
    lines = (ROOT / "Makefile").read_text().splitlines()
    asking = [k for k, line in enumerate(lines) if line.startswith("\t@dvc pull")]
    assert len(asking) >= 4 and all(lines[k - 1] == "\t@$(NO_GIT)" for k in asking)


def test_halves_of_dvc_s_lock_files_are_removed_and_whole_ones_stay(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    for text, stays in (('{"a": [', False), ("{}", True), ("", False)):
        lock.write_text(text)
        assert run(tmp_path, "make", "--eval", "whole-lock: ; $(WHOLE_LOCK)", "whole-lock").code == 0
        assert lock.exists() == stays
    lock.unlink(missing_ok=True)
    for text, stays in (("", False), ("schema: '2.0'\nsta", False), ("schema: '2.0'\nstages: {}\n", True)):
        (tmp_path / "dvc.lock").write_text(text)
        assert run(tmp_path, "make", "--eval", "whole-lock: ; $(WHOLE_LOCK)", "whole-lock").code == 0
        assert (tmp_path / "dvc.lock").exists() == stays


@pytest.mark.parametrize("user", [0, 1000])
def test_jupyter_is_allowed_to_run_as_root_where_the_user_is_root(tmp_path, user):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    commands = run(ROOT, "env", f"PATH={tmp_path}:/usr/bin:/bin", "make", "--dry-run", "lab").text
    assert ("jupyter lab --allow-root" in commands) == (user == 0) and "jupyter lab" in commands


def test_what_its_lines_of_python_import_is_there():
    found = re.findall(r"\bfrom (mlanet_lib[\w.]*) import (\w+)", (ROOT / "Makefile").read_text())
    assert found and all(hasattr(importlib.import_module(module), name) for module, name in found)


def test_the_tests_are_parted_into_two():
    marked = {name: run(ROOT, "make", "--dry-run", name).text for name in ("test", "test-slow", "test-all")}
    assert {name: re.findall(r'-m (?:"not slow"|slow)', text) for name, text in marked.items()} == {
        "test": ['-m "not slow"'],
        "test-slow": ["-m slow"],
        "test-all": [],
    }
