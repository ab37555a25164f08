"""Names are planned before anything is written, and mlanet's own files are known as such."""

import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import Motion, Oracle, write_clip
from PIL import Image

from mlanet_lib.data.sets.photos import read_folder
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import Task, is_own, may_replace, name_of, others_in, plan
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import mesh_files
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.output import reconstruct_clip

KINDS = ("a_0.glb", "a_0.json", "a_0.mtl", "a_0.obj", "a_0.png", "a_0_texture.png", "c.csv", "c.json", "c_overlay.mp4")


@pytest.fixture(scope="module")
def written(toy_model, tmp_path_factory):
    """A folder with all files of a face, `a`, and of a clip, `c`."""
    folder = tmp_path_factory.mktemp("written")
    parameters = FaceParameters.neutral(toy_model, 1).replace(identity=torch.ones(1, toy_model.n_identity))
    mesh_files.write_face(folder, "a_0", toy_model, parameters, {}, np.zeros((8, 8, 3), np.uint8))
    clip = Clip.open(write_clip(tmp_path_factory.mktemp("clip") / "c.mp4", 12))
    reconstruct_clip(clip, Oracle(toy_model, Motion(toy_model)), folder, "c")
    assert sorted(path.name for path in folder.iterdir()) == sorted(KINDS)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_every_file_says_itself_that_mlanet_wrote_it(written, name, tmp_path):
    assert is_own(written / name)
    moved = shutil.copy(written / name, tmp_path / f"moved{(written / name).suffix}")
    assert is_own(moved)
    (tmp_path / "link").symlink_to(moved)
    assert not is_own(tmp_path / "link")  # written over, what it leads to would be lost


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\xff\xd8\xff\xe0", b"# mtllib me", b'{"generator": "other"}'])
def test_other_files_are_somebody_s(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert not is_own(tmp_path / "file") and not is_own(tmp_path) and not is_own(tmp_path / "none")
    assert may_replace(tmp_path / "file") == (not content)  # in an empty file there is nothing to lose


def test_what_a_task_may_write(written):
    photo, clip = Task("a.jpg", "a"), Task("c.mp4", "c", clip=True)
    assert {name for name in KINDS if photo.writes(name)} == {name for name in KINDS if name[0] == "a"}
    assert {name for name in KINDS if clip.writes(name)} == {name for name in KINDS if name[0] == "c"}
    for name in ("a.png", "a_x.png", "a_00.png", "a_1.jpg", "b_0.png", "aa_0.png", "a_0_texture.jpg"):
        assert not photo.writes(name), name
    assert photo.writes("a_1234.png") and not clip.writes(".c.lock")
    assert Task("IMG.jpg", "IMG").writes("IMG_12.png") and not Task("IMG.jpg", "IMG").writes("IMG_0012.png")


def touched(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("somebody's")
    return [folder / name for name in names]


def test_an_input_is_never_written_over(tmp_path):
    photo, other = touched(tmp_path, "x.jpg", "x_0.png")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"x_0\.png is an input, and .*x\.jpg would be written over it"):
            plan([photo, other], [], tmp_path, overwrite)
    os.symlink(tmp_path, tmp_path.parent / f"{tmp_path.name}.link")  # the same folder under another name
    with pytest.raises(UserError, match="is an input"):
        plan([photo, other], [], tmp_path.parent / f"{tmp_path.name}.link")
    with pytest.raises(UserError, match="is an input"):
        plan([], touched(tmp_path, "a.mp4", "a_overlay.mp4"), tmp_path)
    frames = tmp_path / "f"
    touched(frames, "f.json", "1.png")
    with pytest.raises(UserError, match="is an input"):
        plan([], [frames], frames)


def test_files_of_others_are_replaced_only_where_that_is_said(tmp_path, written):
    (photo,), out = touched(tmp_path / "in", "a.jpg"), tmp_path / "out"
    assert [task.name for task in plan([photo], [], out)] == ["a"]
    shutil.copytree(written, out)
    assert plan([photo], [], out)  # mlanet's own
    touched(out, "a_3.obj", "a_0003.obj", "other.txt")
    with pytest.raises(UserError, match=r"a_3\.obj is there already, and mlanet did not write it: .*--overwrite"):
        plan([photo], [], out)
    assert plan([photo], [], out, overwrite=True)


def test_two_sources_never_share_a_file(tmp_path):
    for photos, clips in ((["m.jpg", "m.png"], []), ([], ["m.mp4", "m.mov"]), (["m.jpg"], ["m_0.mp4"])):
        with pytest.raises(UserError, match="would write the same file"):
            plan(touched(tmp_path, *photos), touched(tmp_path, *clips), tmp_path / "out")
    assert plan(touched(tmp_path, "m.jpg"), touched(tmp_path, "m.mp4", "m_x.mp4"), tmp_path / "out")
    with pytest.raises(UserError, match="the same files"):  # safe names may be the same where the files' are not
        plan(touched(tmp_path, "m\n.jpg", "m_.jpg"), [], tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["new\nline.jpg", "carriage\rreturn.jpg", "colon:.jpg", "back\\slash.jpg", "x" * 250 + ".jpg"]
)
def test_names_are_safe_wherever_they_are_written(name, tmp_path):
    found = name_of(tmp_path / name)
    assert not set("\n\r:\\/") & set(found) and len(found.encode()) <= 200


def test_what_cannot_be_looked_at_does_not_stop_the_plan(tmp_path):
    """A link in a circle, a name that is too long, a file named twice: the loop over the files says what is wrong."""
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (photo,) = touched(tmp_path, "a.jpg")
    long = tmp_path / f"{'x' * 300}.mp4"
    tasks = plan([tmp_path / "loop.jpg", photo, tmp_path / "." / "a.jpg"], [long], tmp_path / "out")
    assert [task.source for task in tasks] == [tmp_path / "loop.jpg", photo, long]


def test_own_pictures_are_left_out_of_folders(written, tmp_path, capsys):
    folder = shutil.copytree(written, tmp_path / "mixed")
    with pytest.raises(UserError, match="no pictures but those that mlanet wrote"):
        others_in(folder)
    Image.new("RGB", (32, 32)).save(folder / "photo.jpg")
    assert others_in(folder) == [folder / "photo.jpg"] and Clip.open(folder).count == 1
    assert "2 pictures that mlanet wrote are left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="no face found in 1 pictures"):
        read_folder(folder, SimpleNamespace(detect=lambda image: []))


def test_a_face_model_is_known(toy_model, tmp_path):
    toy_model.save(tmp_path / "own.npz")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert is_own(tmp_path / "own.npz") and not is_own(tmp_path / "other.npz") and not is_own(tmp_path / "broken.npz")


def test_a_plan_for_thousands_of_files_is_quick(tmp_path):
    names = [f"p{number}" for number in range(2000)]
    touched(tmp_path / "out", *(f"{name}_0.{end}" for name in names for end in ("obj", "glb")))
    for path in (tmp_path / "out").iterdir():
        path.write_bytes(b"")
    began = time.monotonic()
    assert len(plan([tmp_path / f"{name}.jpg" for name in names], [], tmp_path / "out")) == 2000
    assert time.monotonic() - began < 10
