"""A photo to play with in a notebook: take one, see its face rebuilt, change that face, compare two, keep the files."""

import functools
import html
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as ui
import numpy as np
import torch
from PIL import Image

from mlanet_lib.drawing.textures import albedo_texture, photo_texture
from mlanet_lib.drawing.views import coloured, framed, panels
from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.mesh_files import write_face
from mlanet_lib.predictor.predictor import Face, Predictor
from mlanet_lib.show import figures
from mlanet_lib.show.widgets import Explorer

SIDE = 208  # of a panel, px


class Studio:
    """Show `.widget`; `.open(photo)` does what an upload or a path does, `.show(k)` takes the photo's k-th face.

    load: makes the `Predictor` when the first photo is opened, so that a notebook without weights still runs; the
    standard one takes what `mlanet reconstruct` takes. folder: where `.write()` puts files, unless the form is changed.

    Errors with a photo or with files are shown in one line above the pictures, which stay as they were.
    """

    def __init__(self, load: Callable[[], Predictor] = Predictor.load, folder: str | Path = "faces") -> None:
        self._load = load
        self.photo: np.ndarray | None = None
        self.name = ""
        self.faces: list[Face] = []
        self.explorer: Explorer | None = None
        self._shown: int | None = None
        self._kept: tuple[str, torch.Tensor, np.ndarray] | None = None
        self.upload = ui.FileUpload(accept="image/*", description="a photo")
        self.path = ui.Text(placeholder="or its path", continuous_update=False, layout={"width": "300px"})
        self.which = ui.Dropdown(description="face", layout={"width": "160px", "display": "none"})
        self.message = ui.HTML("Nothing leaves this machine.")
        self.strip = _picture()
        self.levels, self.pair = _picture(), _picture()
        self.keep = ui.Button(description="keep this face")
        self.difference = ui.HTML("Keep a face, then open another photo or move the sliders.")
        self.folder = ui.Text(value=str(folder), description="folder", continuous_update=False)
        self.texture = ui.Dropdown(options=["photo", "albedo"], description="texture")
        self.save = ui.Button(description="write OBJ and GLB")
        self.written = ui.HTML()
        self.changed = ui.VBox()
        self.upload.observe(self._uploaded, "value")
        self.path.observe(lambda change: self._guarded(self.open, change["new"] or None), "value")
        self.which.observe(lambda change: self._guarded(self.show, change["new"]), "value")
        self.keep.on_click(lambda _: self._guarded(self.hold))
        self.save.on_click(lambda _: self._guarded(self.write))
        tabs = {
            "change it": self.changed,
            "where it looks": self.levels,
            "compare": ui.VBox([ui.HBox([self.keep, self.difference]), self.pair]),
            "take it away": ui.VBox([ui.HBox([self.folder, self.texture, self.save]), self.written]),
        }
        self.tabs = ui.Tab(list(tabs.values()), titles=list(tabs), layout={"display": "none"})
        take = ui.HBox([self.upload, self.path, self.which])
        self.widget = ui.VBox([take, self.message, self.strip, self.tabs])

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The network, loaded when it is first needed; UserError if its weights or face model are missing."""
        return self._load()

    @property
    def face(self) -> Face:
        """The face that is shown; UserError before a photo was opened."""
        return self._opened()[1]

    def _opened(self) -> tuple[np.ndarray, Face, FaceParameters]:
        """The photo, the face that is shown, and that face as the sliders have it; UserError before one is."""
        if self._shown is None or self.photo is None or self.explorer is None:
            raise UserError("open a photo first")
        return self.photo, self.faces[self._shown], self.explorer.parameters

    def open(self, photo: str | Path | np.ndarray, name: str | None = None) -> None:
        """Rebuild the faces of a photo (`read_photo`) and show the largest; UserError, and no change, for none."""
        image = read_photo(photo)
        name = name or ("photo" if isinstance(photo, np.ndarray) else Path(photo).name)
        faces = self.predictor.faces(image)
        if not faces:
            raise UserError(f"{name}: no face found")
        self.photo, self.name, self.faces, self._shown = image, name, faces, None
        self.which.options = [(f"{k + 1} of {len(faces)}", k) for k in range(len(faces))]
        self.which.layout.display = None if len(faces) > 1 else "none"
        if self._shown is None:  # the menu's change of value may have shown it already
            self.show(0)

    def show(self, k: int) -> None:
        """Show the k-th face of the photo, largest first, and put the sliders where the network sees it."""
        face, model = self.faces[k], self.predictor.model
        self._shown, self.explorer = k, Explorer(model, face.parameters)
        photo, *_ = self._opened()
        crop = self.predictor.sharp_crop(photo, face, 2 * SIDE)
        row = panels(model, face.parameters, crop, SIDE)
        self.strip.value = _png(np.concatenate(list(row.values()), 1))
        self.levels.value = self._level_maps(face)
        self.changed.children = [self.explorer.widget]
        pose = ", ".join(f"{axis} {value:+.0f}°" for axis, value in face.pose_degrees.items())
        strongest = sorted(
            zip(model.expression_names, face.parameters.expression[0].tolist(), strict=True), key=lambda pair: -pair[1]
        )
        said = ", ".join(f"{name} {value:.2f}" for name, value in strongest[:3])
        self.message.value = html.escape(f"{self.name}: {', '.join(row)}. {pose}; {said}. {self.predictor.weights}")
        self.tabs.layout.display = None

    def hold(self) -> None:
        """Keep the face as the sliders have it; a second one is shown beside the first, with how far they are apart."""
        _, _, parameters = self._opened()
        model = self.predictor.model
        neutral = framed(model, parameters.replace(expression=torch.zeros_like(parameters.expression)))
        vertices = model.vertices(neutral.identity, neutral.expression)[0]
        clay = np.concatenate(
            [coloured(model, framed(model, neutral, yaw, whole=True), SIDE) for yaw in (0.0, -55.0)], 1
        )
        first, self._kept = self._kept, (self.name, vertices, clay)
        if first is None:
            self.pair.value, self.difference.value = _png(clay), html.escape(f"{self.name} is kept: now another")
            return
        apart = (first[1] - vertices).norm(dim=1).square().mean().sqrt()
        self.pair.value = _png(np.concatenate([first[2], clay], 1))
        said = f"{first[0]} and {self.name}, both without expression: {apart:.2f} mm apart (root mean square)"
        self.difference.value = html.escape(said)

    def write(self) -> list[Path]:
        """Write the face as the sliders have it: its identity, expression and albedo; the JSON says so.

        Returns the paths. UserError if nothing was opened or the folder cannot be written.
        """
        photo, face, said = self._opened()
        model, seen = self.predictor.model, face.parameters
        changed = {name: getattr(said, name) for name in ("identity", "expression", "albedo")}
        parameters = seen.replace(**changed)
        record = self.predictor.record(face) | {
            "photo": self.name,
            "identity": parameters.identity[0].tolist(),
            "expression": dict(zip(model.expression_names, parameters.expression[0].tolist(), strict=True)),
            "albedo": parameters.albedo[0].tolist(),
            "edited": not all(torch.allclose(getattr(seen, name), value, atol=1e-6) for name, value in changed.items()),
        }
        if self.texture.value == "photo":  # where the photo saw a point is asked of the face that was seen
            texture = photo_texture(model, seen, self.predictor.sharp_crop(photo, face))
        else:
            texture = albedo_texture(model, parameters)
        overlay = self.predictor.overlay(photo, face)
        folder, stem = Path(self.folder.value or "."), f"{Path(self.name).stem}_{self._shown}"
        paths = write_face(folder, stem, model, parameters, record, overlay, texture)
        self.written.value = "<br>".join(html.escape(str(path.resolve())) for path in paths)
        return paths

    @torch.no_grad()
    def _level_maps(self, face: Face) -> bytes:
        network = self.predictor.network
        images = torch.from_numpy(face.crop_image).permute(2, 0, 1)[None].float().to(self.predictor.device) / 255
        maps = [level[0].cpu().numpy() for level in network.attention_maps(images)]
        stream = io.BytesIO()
        figure = figures.attention_levels([face.crop_image], [maps], network.config.levels)
        figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
        return stream.getvalue()

    def _uploaded(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        (file,) = change["new"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file["name"]).name
            path.write_bytes(file["content"])
            self._guarded(self.open, path)
        self.upload.value = ()  # the same file may be chosen again

    def _guarded(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Do something, and show a UserError above the pictures. Nothing is done for None (an empty form)."""
        if None in arguments:
            return
        try:
            action(*arguments)
        except UserError as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"


def _picture() -> ui.Image:
    return ui.Image(
        value=_png(np.full((1, 1, 3), 255, np.uint8)),
        format="png",
        layout={"object_fit": "contain", "align_self": "flex-start", "max_width": "100%"},
    )


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()
