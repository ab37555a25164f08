"""Pictures of a trained network at work, for the report: best, median and worst faces, attention, errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib.figure import Figure

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.drawing import views
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks, crop_image, to_crop
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.predictor import Predictor
from mlanet_lib.show import charts, figures, viewer

MOST_PHOTOS = 200
"""Photos over which the errors on the face are averaged."""
Titled = tuple[str, Figure, str]
"""Title, figure and caption."""


@dataclass
class Gallery:
    """rows, failures, errors: figures with titles and captions; attention: a figure or None; level_weights:
    {group: (L,)} of `levels`; viewer: a plotly figure or None, with its caption."""

    rows: list[Titled] = field(default_factory=list)
    attention: Figure | None = None
    level_weights: Mapping[str, Sequence[float]] = field(default_factory=dict)
    levels: Sequence[int] = ()
    viewer: go.Figure | None = None
    viewer_caption: str = ""
    failures: list[Titled] = field(default_factory=list)
    errors: list[Titled] = field(default_factory=list)


class Labelled(NamedTuple):
    """A photo of the benchmark: its 68 true landmarks (68,2), the crop around them, and its yaw in degrees."""

    sample: Sample
    landmarks: np.ndarray
    box: Box
    yaw: float

    def crop(self, size: int) -> np.ndarray:
        """The crop, (size,size,3) uint8."""
        return crop_image(self.sample.image(), self.box, size)


def _read(folder: str | Path, name: str) -> Labelled:
    sample = aflw2000.read_sample(Path(folder) / name)
    if sample.landmarks is None or sample.pose_degrees is None:
        raise UserError(f"{sample.name}: without landmarks or pose there is no crop to show")
    return Labelled(sample, sample.landmarks, crop_box_from_landmarks(sample.landmarks), sample.pose_degrees[1])


@torch.no_grad()
def make_gallery(
    predictor: Predictor, folder: str | Path, names: Sequence[str], nme: Sequence[float], count: int
) -> Gallery:
    """Reconstructions of the `count` best, middle and worst of a folder in AFLW2000-3D's layout, crops from the truth.

    names: of the photos; nme: their errors in percent, in the same order.
    """
    order = np.argsort(np.asarray(nme, float))
    middle = max(0, len(order) // 2 - count // 2)
    groups = {"Best": order[:count], "Median": order[middle : middle + count], "Worst": order[::-1][:count]}
    gallery = Gallery()
    first, meshes = [], {}
    model = predictor.model
    for title, chosen in groups.items():
        photos = [_read(folder, names[k]) for k in chosen]
        crops = [photo.crop(256) for photo in photos]
        parameters = predictor.predict_crops(np.stack(crops))
        labels = [f"{nme[k]:.2f} %\nyaw {photo.yaw:+.0f}°" for k, photo in zip(chosen, photos, strict=True)]
        caption = (
            f"{title} {len(chosen)} of {len(order)} by sparse NME; crops from the truth, light and pose as predicted."
        )
        gallery.rows.append((title, figures.reconstructions(model, crops, parameters, labels), caption))
        first.append(crops[0])
        vertices = model.vertices(parameters.identity, parameters.expression).numpy()
        colours = model.albedo(parameters.albedo).numpy()
        for k, face in enumerate(chosen):
            meshes[f"{title.lower()} {k + 1}: {nme[face]:.2f} %"] = (vertices[k], colours[k])
    gallery.viewer = viewer.choose_figure(meshes, model.faces.numpy())
    gallery.viewer_caption = "Each face of the grids above, with its predicted albedo, without its pose. Drag to turn."
    _levels(gallery, predictor, first)
    gallery.failures = [_failures(predictor, folder, names, nme, order[::-1][:10])]
    gallery.errors = errors_on_the_face(predictor, folder, names)
    return gallery


def _levels(gallery: Gallery, predictor: Predictor, crops: Sequence[np.ndarray]) -> None:
    """Put in what the network's levels looked at in these crops, and how much each is listened to."""
    network, size = predictor.network, predictor.image_size
    images = np.stack([crop_image(crop, Box(0, 0, 256, 256), size) for crop in crops])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(predictor.device) / 255
    maps = [level.cpu().numpy() for level in network.attention_maps(batch)]
    gallery.levels = network.config.levels
    gallery.attention = figures.attention_levels(crops, list(zip(*maps, strict=True)), gallery.levels)
    gallery.level_weights = {group: values.cpu().tolist() for group, values in network.level_weights().items()}


def _failures(
    predictor: Predictor, folder: str | Path, names: Sequence[str], nme: Sequence[float], chosen: np.ndarray
) -> Titled:
    """The contact sheet of the photos `chosen`, with the predicted landmarks and the true ones."""
    pictures, labels = [], []
    for k in chosen:
        photo = _read(folder, names[k])
        crop = photo.crop(256)
        found = in_crop(predictor.model, predictor.predict_crops(crop[None]))[0].numpy()
        crop = views.draw_landmarks(crop, to_crop(photo.landmarks, photo.box) * 256, colour=(230, 159, 0), width=2)
        pictures.append(views.draw_landmarks(crop, found * 256, width=2))
        labels.append(f"{nme[k]:.1f} %, yaw {photo.yaw:+.0f}°\n{Path(names[k]).stem}")
    caption = f"The {len(pictures)} worst of {len(nme)} by sparse NME: predicted points in green, true ones in orange."
    figure = figures.sample_sheet(pictures, 5, labels)
    figure.set_size_inches(*(1.5 * figure.get_size_inches()))
    return f"The worst {len(pictures)}", figure, caption


@torch.no_grad()
def errors_on_the_face(predictor: Predictor, folder: str | Path, names: Sequence[str]) -> list[Titled]:
    """Where on the face the network errs, over at most `MOST_PHOTOS`, evenly chosen.

    Always for the 68 landmarks; for the whole surface if the photos' true shape in the network's face model is known.
    """
    model = predictor.model
    chosen = np.unique(np.linspace(0, len(names) - 1, min(MOST_PHOTOS, len(names))).round().astype(int))
    photos = [_read(folder, names[k]) for k in chosen]
    found = predictor.predict_crops(np.stack([photo.crop(predictor.image_size) for photo in photos]))
    true = np.stack([to_crop(photo.landmarks, photo.box) for photo in photos])
    size = np.sqrt((true.max(1) - true.min(1)).prod(1))
    distances = 100 * np.linalg.norm(in_crop(model, found).numpy() - true, axis=2) / size[:, None]
    shape = model.landmarks(model.mean[None])[0, :, :2].numpy()
    caption = (
        f"Mean over {len(photos)} photos, in % as the NME's; the three largest in figures. Drawn on the mean face."
    )
    result = [("By point", charts.landmark_errors(shape, distances.mean(0)), caption)]
    truths = [photo.sample.truth for photo in photos]
    known = [truth for truth in truths if truth is not None and truth.face_model == model.fingerprint]
    if len(known) == len(truths):
        labels = (torch.from_numpy(np.stack([getattr(t, name) for t in known])) for name in ("identity", "expression"))
        vertices = model.vertices(*(label.to(model.mean) for label in labels)).double().numpy()
        predicted = model.vertices(found.identity, found.expression).double().cpu().numpy()
        aligned = similarity(predicted, vertices).apply(predicted)
        errors = np.linalg.norm(aligned - vertices, axis=-1).mean(0)
        limit = float(np.ceil(np.quantile(errors, 0.98)))
        figure = figures.error_map(model, FaceParameters.neutral(model, 1), errors, limit)
        caption = f"Mean over {len(photos)} photos, each shape laid on the true one by a similarity over all vertices."
        result.append(("On the surface", figure, caption))
    return result
