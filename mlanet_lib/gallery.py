"""Pictures of a trained network at work, for the report: best, median and worst faces, attention, a mesh to turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mlanet_lib import figures, viewer
from mlanet_lib.datasets import aflw2000
from mlanet_lib.datasets.sample import Box, crop_box_from_landmarks, crop_image


@dataclass
class Gallery:
    """rows: (title, matplotlib figure, caption); attention: a figure or None; level_weights: {group: (L,)} of `levels`;
    viewer: a plotly figure or None, with its caption."""

    rows: list[tuple] = field(default_factory=list)
    attention: object | None = None
    level_weights: Mapping[str, Sequence[float]] | None = None
    levels: Sequence[int] | None = None
    viewer: object | None = None
    viewer_caption: str = ""


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
        vertices = predictor.model.vertices(parameters.identity[:1], parameters.expression[:1])[0].numpy()
        meshes[title.lower()] = (vertices, predictor.model.albedo(parameters.albedo[:1])[0].numpy())
    gallery.viewer = viewer.compare_figure(meshes, predictor.model.faces.numpy())
    gallery.viewer_caption = "The first of each group, with its predicted albedo, without its pose. Drag to turn."
    return gallery
