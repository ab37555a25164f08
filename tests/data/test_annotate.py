"""A folder of photos to a training set: what is written and read again, what is left out, and a run that was killed."""

import re

import numpy as np
import pytest
from PIL import Image

from mlanet_lib.data import annotate as module
from mlanet_lib.data.annotate import Marked, annotate
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.data.sources import Source, held_out, person, read
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import is_own

FACE = np.stack([20 + 60 * np.arange(68) % 61, 20 + 60 * np.linspace(0, 1, 68)], 1)


class Painted:
    """An annotator: as many faces as the red of a photo's first pixel says. Its starts lie `scatter` px apart."""

    source = "painted"

    def __init__(self, definition="ibug", scatter=0.5, differ=0.0, zoom=1.0, yaw=0.0, end=None):
        self.definition, self.scatter, self.differ, self.zoom, self.yaw = definition, scatter, differ, zoom, yaw
        self.seen, self.end = 0, end

    def faces(self, photo):
        if self.seen == self.end:
            raise KeyboardInterrupt
        self.seen += 1
        starts = FACE + self.scatter * np.array([0.0, -1.0, 1.0])[:, None, None]
        picture = np.full((100, 100, 3), photo[0, 0], np.uint8)
        return [Marked(picture, starts, FACE + self.differ, self.yaw, self.zoom, (0.0, 0.0))] * int(photo[0, 0, 0])


def photo(path, faces=1, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (faces, 7, 9)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for number, faces in enumerate((1, 2, 0, 1)):
        photo(tmp_path / "photos" / f"IMG_{number}.png", faces)
    photo(tmp_path / "photos" / "below" / "a.png")
    return tmp_path / "photos"


def run(folder, out, annotator=None):
    return annotate(folder, out / "labels.npz", annotator or Painted(), progress=False)


def test_what_is_written_is_read_as_crops(folder, tmp_path, capsys):
    counts = run(folder, tmp_path / "out")
    assert counts == (5, 5, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.zip", "labels.npz"]
    samples = read_archive(tmp_path / "out", "ibug")
    assert [sample.name for sample in samples] == [f"{name}.jpg" for name in NAMES]
    first = samples[0]
    assert first.image().shape == (100, 100, 3) and np.allclose(first.landmarks, FACE, atol=1e-4)
    assert np.allclose(first.pose_degrees[1], 0) and first.nearness is None
    assert np.allclose(first.confidence, first.confidence[0]) and 0.5 < first.confidence[0] < 1  # the jaw's as well
    assert "IMG_2.png: no face found" in capsys.readouterr().err
    with np.load(tmp_path / "out" / "labels.npz") as fields:
        assert str(fields["definition"]) == "ibug" and str(fields["annotator"]) == "painted"
        assert np.allclose(fields["spread"], np.sqrt(2) / 3)
    faces = [name for name in NAMES if name.startswith("IMG_1")]
    assert len({held_out(Source("crops", "x", validation=0.5), f"{name}.jpg", 0) for name in faces}) == 1


NAMES = ["IMG_0_0", "IMG_1_0", "IMG_1_1", "IMG_3_0", "below/a_0"]


def test_annotated_portraits_are_a_source_in_one_light(tmp_path):
    """As the profile open has it; both moods show one person."""
    for name in ("007_neutral", "007_smiling", "008_neutral", "008_smiling"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    run(tmp_path / "photos", tmp_path / "out")
    source = Source("crops", str(tmp_path / "out"), points="ibug", labels="fit", light="one")
    assert [person(sample.name) for sample in read(source)] == ["007", "007", "008", "008"]


def test_the_definition_that_a_file_says_is_honoured(folder, tmp_path):
    run(folder, tmp_path / "out", Painted("3ddfa", yaw=40.0))
    samples = read_archive(tmp_path / "out", "3ddfa")
    assert (samples[0].confidence[:17] > 0.5).all()  # 3DDFA's jaw stays on the head however it is turned
    with pytest.raises(UserError, match=r"labels\.npz: its points follow 3ddfa's definition: set points: 3ddfa"):
        read_archive(tmp_path / "out", "ibug")
    run(folder, tmp_path / "out", Painted("ibug", yaw=-40.0))
    assert len(read_archive(tmp_path / "out")) == 5
    turned = read_archive(tmp_path / "out", "ibug")[0]
    assert turned.confidence[:17].max() <= 0.1001 < turned.confidence[17:].min()


@pytest.mark.parametrize(
    ("annotator", "why"),
    [
        (Painted(scatter=6.0), "points from several starts lie .* % apart"),
        (Painted(differ=9.0), "its points differ from the network's by .* %"),
        (Painted(zoom=0.5), "30 pixels are too small a face"),
        (Painted(scatter=np.nan), "not finite"),
    ],
)
def test_faces_that_are_not_to_be_believed_are_left_out_by_name(annotator, why, folder, tmp_path, capsys):
    with pytest.raises(UserError, match="no face found in 5 photos; nothing was written"):
        run(folder, tmp_path / "out", annotator)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6  # five faces, and the photo without one
    assert sum(line.startswith("left out: ") for line in lines) == 6
    assert len([line for line in lines if re.search(why, line)]) == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".labels.unfinished"]


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, capsys):
    first = Painted(end=3)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out", first)
    assert not (tmp_path / "out" / "labels.npz").exists()
    capsys.readouterr()
    second = Painted()
    assert run(folder, tmp_path / "out", second) == (5, 5, 1)
    assert second.seen == 2 and "IMG_2.png: no face found" in capsys.readouterr().err
    run(folder, tmp_path / "whole")
    for name in ("images.zip", "labels.npz"):
        assert is_own(tmp_path / "out" / name)
    assert (tmp_path / "out" / "images.zip").read_bytes() == (tmp_path / "whole" / "images.zip").read_bytes()


def test_photos_that_changed_and_other_annotators_are_done_anew(folder, tmp_path):
    for end in (3, 2):  # another annotator, since its definition is another
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out", Painted("ibug" if end == 3 else "3ddfa", end=end))
    photo(folder / "IMG_0.png", 2, side=50)
    kept = next(path for path in (tmp_path / "out" / ".labels.unfinished").iterdir())
    kept.write_bytes(b"PK damaged")
    last = Painted()
    assert run(folder, tmp_path / "out", last).faces == 6
    assert last.seen in (3, 4)  # the changed one, two that were not reached, and the damaged one if it was of these


def test_an_unreadable_photo_is_a_line_and_is_tried_again(folder, tmp_path, capsys):
    (folder / "IMG_9.png").write_bytes(b"no picture")
    assert run(folder, tmp_path / "out") == (6, 5, 2)
    assert "left out: " in (said := capsys.readouterr().err) and "IMG_9.png: not a readable picture" in said


def test_what_is_wrong_is_refused_before_anything_is_looked_at(folder, tmp_path):
    annotator = Painted(end=0)
    with pytest.raises(UserError, match=r"is to be named labels\.npz"):
        annotate(folder, tmp_path / "out" / "mine.npz", annotator, False)
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out", annotator)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images.zip").write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"images\.zip is there already, and mlanet did not write it"):
        run(folder, tmp_path / "out", annotator)
    photo(folder / "IMG_0.jpg")
    with pytest.raises(UserError, match="one photo twice"):
        run(folder, tmp_path / "other", annotator)


def test_names_are_safe_in_a_zip(tmp_path):
    photo(tmp_path / "photos" / "a:b.png")
    photo(tmp_path / "photos" / f"{'x' * 240}.png")
    run(tmp_path / "photos", tmp_path / "out")
    names = [sample.name for sample in read_archive(tmp_path / "out")]
    assert names[0] == "a_b_0.jpg" and len(names[1]) <= 200 and module.FIRST == 0.5
