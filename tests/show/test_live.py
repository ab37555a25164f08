"""Curves that grow in a notebook: what an earlier run left is not shown, new rows are, and nothing stays."""

import time

import pytest

from mlanet_lib.show import live


class Shown:
    def __init__(self):
        self.updates = []

    def update(self, what):
        self.updates.append(what)


@pytest.fixture
def shown(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(live, "display", lambda *_, **__: shown)
    monkeypatch.setattr(live, "LOOK_EVERY", 0.01)
    return shown


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_follows_the_file(shown, tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("step,total\n1,2.0\n")
    with live.live_curves(history):
        time.sleep(0.1)
        assert shown.updates == []  # of a run before this one
        history.write_text("step,total,val_nme\n1,2.0,9.0\n2,1.0,8.5\n")
        wait_for(lambda: shown.updates)
    figure, last = shown.updates[0], shown.updates[-1]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2] and len(figure.axes) == 2
    assert last.data == ""


def test_ends_with_the_body_that_fails_and_without_a_notebook(shown, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="diverged"), live.live_curves(tmp_path / "none.csv"):
        raise RuntimeError("diverged")
    assert shown.updates[-1].data == ""
    monkeypatch.setattr(live, "display", lambda *_, **__: None)
    with live.live_curves(tmp_path / "history.csv"):
        (tmp_path / "history.csv").write_text("step,total\n1,2.0\n")
        time.sleep(0.1)
