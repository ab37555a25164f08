"""Pictures of a trained network at work, for the report: best, median and worst faces, attention, errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.drawing import views
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks, crop_image, to_crop
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.show import charts, figures, viewer


@dataclass
class Gallery:
    """rows, failures, errors: (title, matplotlib figure, caption) each; attention: a figure or None; level_weights:
    {group: (L,)} of `levels`; viewer: a plotly figure or None, with its caption."""

    rows: list[tuple] = field(default_factory=list)
    attention: object | None = None
    level_weights: Mapping[str, Sequence[float]] | None = None
    levels: Sequence[int] | None = None
    viewer: object | None = None
    viewer_caption: str = ""
    failures: list[tuple] = field(default_factory=list)
    errors: list[tuple] = field(default_factory=list)


@torch.no_grad()
def make_gallery(predictor, folder: str | Path, names: Sequence[str], nme: Sequence[float], count: int = 3) -> Gallery:
    """Reconstructions of the `count` best, middle and worst of a folder in AFLW2000-3D's layout, crops from the truth.

    predictor: a `Predictor`; names: of the photos; nme: their errors in percent, in the same order.
    """
    order = np.argsort(np.asarray(nme, float))
    middle = max(0, len(order) // 2 - count // 2)
    groups = {"Best": order[:count], "Median": order[middle : middle + count], "Worst": order[::-1][:count]}
    gallery = Gallery()
    shown = {}
    for title, chosen in groups.items():
        samples = [aflw2000.read_sample(Path(folder) / names[k]) for k in chosen]
        crops = [crop_image(s.image(), crop_box_from_landmarks(s.landmarks), 256) for s in samples]
        parameters = predictor.predict_crops(np.stack(crops))
        labels = [f"{nme[k]:.2f} %\nyaw {s.pose_degrees[1]:+.0f}°" for k, s in zip(chosen, samples, strict=True)]
        figure = figures.reconstructions(predictor.model, crops, parameters, labels)
        caption = (
            f"{title} {len(chosen)} of {len(order)} by sparse NME; crops from the truth, light and pose as predicted."
        )
        gallery.rows.append((title, figure, caption))
        shown[title] = (crops, parameters)
    crops = [crop for group, _ in shown.values() for crop in group[:1]]
    size = predictor.image_size
    images = np.stack([crop_image(crop, Box(0, 0, 256, 256), size) for crop in crops])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(predictor.device) / 255
    maps = [level.cpu().numpy() for level in predictor.network.attention_maps(batch)]
    gallery.levels = predictor.network.config.levels
    gallery.attention = figures.attention_levels(
        crops, [[level[n] for level in maps] for n in range(len(crops))], gallery.levels
    )
    weights = predictor.network.level_weights()
    gallery.level_weights = {group: values.cpu().tolist() for group, values in weights.items()}
    meshes = {}
    for title, (_, parameters) in shown.items():
        vertices = predictor.model.vertices(parameters.identity, parameters.expression).numpy()
        colours = predictor.model.albedo(parameters.albedo).numpy()
        for k, face in enumerate(groups[title]):
            meshes[f"{title.lower()} {k + 1}: {nme[face]:.2f} %"] = (vertices[k], colours[k])
    gallery.viewer = viewer.choose_figure(meshes, predictor.model.faces.numpy())
    gallery.viewer_caption = "Each face of the grids above, with its predicted albedo, without its pose. Drag to turn."
    gallery.failures.append(_failures(predictor, folder, names, nme, order[::-1][:10]))
    gallery.errors = errors_on_the_face(predictor, folder, names)
    return gallery


def _failures(predictor, folder: str | Path, names: Sequence[str], nme: Sequence[float], chosen) -> tuple:
    """The contact sheet of the photos `chosen`, with the predicted points and the true ones."""
    pictures, labels = [], []
    for k in chosen:
        sample = aflw2000.read_sample(Path(folder) / names[k])
        box = crop_box_from_landmarks(sample.landmarks)
        crop = crop_image(sample.image(), box, 256)
        found = in_crop(predictor.model, predictor.predict_crops(crop[None]))[0].numpy()
        crop = views.draw_landmarks(crop, to_crop(sample.landmarks, box) * 256, colour=(230, 159, 0), width=2)
        pictures.append(views.draw_landmarks(crop, found * 256, width=2))
        labels.append(f"{nme[k]:.1f} %, yaw {sample.pose_degrees[1]:+.0f}°\n{Path(names[k]).stem}")
    caption = f"The {len(pictures)} worst of {len(nme)} by sparse NME: predicted points in green, true ones in orange."
    figure = figures.sample_sheet(pictures, 5, labels)
    figure.set_size_inches(*(1.5 * figure.get_size_inches()))
    return f"The worst {len(pictures)}", figure, caption


@torch.no_grad()
def errors_on_the_face(predictor, folder: str | Path, names: Sequence[str], most: int = 200) -> list[tuple]:
    """Where on the face the network errs, (title, figure, caption) each, over at most `most` photos, evenly chosen.

    Of the 68 points always; of the whole surface where the photos know their shape in the network's own face model.
    """
    model = predictor.model
    chosen = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    samples = [aflw2000.read_sample(Path(folder) / names[k]) for k in chosen]
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    crops = [crop_image(s.image(), b, predictor.image_size) for s, b in zip(samples, boxes, strict=True)]
    found = predictor.predict_crops(np.stack(crops))
    truth = np.stack([to_crop(s.landmarks, b) for s, b in zip(samples, boxes, strict=True)])
    size = np.sqrt((truth.max(1) - truth.min(1)).prod(1))
    distances = 100 * np.linalg.norm(in_crop(model, found).numpy() - truth, axis=2) / size[:, None]
    shape = model.landmarks(model.mean[None])[0, :, :2].numpy()
    caption = (
        f"Mean over {len(samples)} photos, in % as the NME's; the three largest in figures. Drawn on the mean face."
    )
    result = [("By point", charts.landmark_errors(shape, distances.mean(0)), caption)]
    if all(s.truth is not None and s.truth.face_model == model.fingerprint for s in samples):
        labels = (
            torch.from_numpy(np.stack([getattr(s.truth, n) for s in samples])) for n in ("identity", "expression")
        )
        true = model.vertices(*(label.to(model.mean) for label in labels)).double().numpy()
        shapes = model.vertices(found.identity, found.expression).numpy()
        errors = np.linalg.norm(similarity(shapes, true).apply(shapes) - true, axis=-1).mean(0)
        limit = float(np.ceil(np.quantile(errors, 0.98)))
        figure = figures.error_map(model, FaceParameters.neutral(model, 1), errors, limit, "mean error, mm")
        caption = f"Mean over {len(samples)} photos, each shape laid on the true one by a similarity over all vertices."
        result.append(("On the surface", figure, caption))
    return result
