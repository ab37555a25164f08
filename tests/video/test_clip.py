"""Clips: every frame once and in order, times, and one clear line for what is no whole video."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import pictures_in
from mlanet_lib.video.clip import Clip, video_writer

WIDTH, HEIGHT, COUNT = 160, 120, 40


def grey(number):
    return np.full((HEIGHT, WIDTH, 3), 20 + 5 * number, np.uint8)


def means(clip):
    return [round(float(frame.mean()), 6) for _, frame in clip.frames()]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with video_writer(path, 20, WIDTH, HEIGHT) as write:
        for number in range(COUNT):
            write(grey(number))
    return path


def folder_of(path, numbers):
    path.mkdir()
    for number in numbers:
        Image.fromarray(grey(number)).save(path / f"frame{number}.png")
    return path


def test_a_written_video_is_read_again(video):
    clip = Clip.open(video)
    assert (clip.fps, clip.width, clip.height, clip.count) == (20, WIDTH, HEIGHT, COUNT)
    times, frames = zip(*clip.frames(), strict=True)
    assert np.allclose(times, np.arange(COUNT) / 20, atol=1e-3)
    means = np.array([frame.mean() for frame in frames])
    assert np.allclose(means, [grey(number).mean() for number in range(COUNT)], atol=8)
    assert (np.diff(means) > 2).all()  # each once, in order


def test_colours_are_rgb(tmp_path):
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 200
    with video_writer(tmp_path / "red.mp4", 25, WIDTH, HEIGHT) as write:
        write(red)
    _, frame = next(Clip.open(tmp_path / "red.mp4").frames())
    assert frame[..., 0].mean() > 180 and frame[..., 1:].mean() < 25


def test_fps_can_be_said(video):
    times = [time for time, _ in Clip.open(video, fps=10.0).frames()]
    assert np.allclose(times, np.arange(COUNT) / 10)
    for wrong in (0.0, -3.0, float("nan"), 1e6):
        with pytest.raises(UserError, match="between 0 and 1000"):
            Clip.open(video, fps=wrong)


def test_a_clock_that_stands_still_is_not_believed(video, monkeypatch):
    class Stuck:
        def __init__(self, path, how):
            self.capture = real(path, how)

        def get(self, what):
            return 0.0 if what == cv2.CAP_PROP_POS_MSEC else self.capture.get(what)

        def __getattr__(self, name):
            return getattr(self.capture, name)

    clip, real = Clip.open(video), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Stuck)
    assert np.allclose([time for time, _ in clip.frames()], np.arange(COUNT) / 20)


def test_folders_count_as_people_do(tmp_path):
    folder = folder_of(tmp_path / "frames", [2, 10, 1, 9])
    (folder / "notes.txt").write_text("no picture")
    assert [path.name for path in pictures_in(folder)] == [f"frame{n}.png" for n in (1, 2, 9, 10)]
    clip = Clip.open(folder)
    assert (clip.fps, clip.count) == (25, 4)
    assert [round((frame.mean() - 20) / 5) for _, frame in clip.frames()] == [1, 2, 9, 10]


def test_folders_that_are_no_clip(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        Clip.open(tmp_path / "empty")
    folder = folder_of(tmp_path / "sizes", [1, 2])
    Image.new("RGB", (50, 40)).save(folder / "frame3.png")
    with pytest.raises(UserError, match=r"frame3.png has 50x40 pixels, the clip's first 160x120"):
        list(Clip.open(folder).frames())
    (folder / "frame2.png").write_bytes(b"junk")
    with pytest.raises(UserError, match="frame2"):
        list(Clip.open(folder).frames())


def test_no_video(video, tmp_path, capfd):
    with pytest.raises(UserError, match="no such video"):
        Clip.open(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 99)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])  # its index is at the end
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        with pytest.raises(UserError, match=rf"{name} cannot be opened as a video"):
            Clip.open(tmp_path / name)
    assert capfd.readouterr().err == ""  # the decoder's own lines stay away


def test_truncated_videos_are_refused(tmp_path):
    path = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    rng = np.random.default_rng(0)
    for _ in range(COUNT):
        writer.write(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    writer.release()
    assert len(list(Clip.open(path).frames())) == COUNT
    half = tmp_path / "half.avi"
    shutil.copy(path, half)
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = []
    with pytest.raises(UserError, match=r"half.avi is truncated or damaged: it ends after frame \d+ of 40"):
        frames += [frame for _, frame in Clip.open(half).frames()]


def test_a_codec_that_cannot_be_read(tmp_path, video):
    data = video.read_bytes()
    assert data.count(b"mp4v") == 1
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"mp4v", b"zzzz").replace(b"\x20\x11", b"\xff\x11"))
    with pytest.raises(UserError, match=r"odd\.mp4"):
        Clip.open(tmp_path / "odd.mp4")


def test_a_writer_that_fails_says_so(tmp_path):
    with (
        pytest.raises(UserError, match="not written whole"),
        video_writer(tmp_path / "a.mp4", 25, WIDTH, HEIGHT) as write,
    ):
        write(grey(1))
        write(grey(1)[:50])  # OpenCV drops a frame of another size without a word
    with pytest.raises(UserError, match="cannot write"), video_writer(tmp_path / "no" / "a.mp4", 25, 160, 120):
        pass


@pytest.mark.parametrize("name", ["concat:other.mp4", "a:b.mp4", "frame%03d.mp4", "-i.mp4", "with space.mp4"])
def test_a_name_is_a_file_and_nothing_else(name, video, tmp_path, monkeypatch):
    """FFmpeg takes what stands before a colon for a protocol, and a percent sign for a row of pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.mp4").write_text("another file")
    Path(name).write_bytes(video.read_bytes())
    assert means(Clip.open(name)) == means(Clip.open(video))


def test_a_name_that_is_not_utf_8_is_refused_not_a_crash(video, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(path)).write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="not UTF-8"):
        Clip.open(os.fsdecode(path))


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_clip_gives_turned_frames(video, tmp_path, turns):
    clip = Clip.open(video).turned(turns)
    frames = [frame for _, frame in clip.frames()]
    assert frames[0].shape == (clip.height, clip.width, 3)
    assert means(clip) == means(Clip.open(video))
    assert clip.turned(-turns) == Clip.open(video)
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(np.rot90(frames[0], -turns)).save(folder / "1.png")
    (again,) = [frame for _, frame in Clip.open(folder).turned(turns).frames()]
    assert np.array_equal(again, frames[0])
