"""People with points 'placed by hand' that agree with drawings, and folders of them, for tests of likeness."""

import numpy as np
import torch
from PIL import Image
from toy_system import ToySystem

from mlanet_lib.data.synthetic import faces
from mlanet_lib.evaluation.likeness_metrics import CHEEKS, DISTANCES, HAND, INNER_LIPS, OUTER_EYES
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.face_sources import london
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face


def by_hand(drawn: np.ndarray) -> np.ndarray:
    """(P, 68, 2) -> (P, 189, 2): whoever places points by hand puts them where the drawing has them."""
    points = np.zeros((len(drawn), HAND, 2))
    for hand_pairs, drawn_pairs in DISTANCES.values():
        for places in zip(hand_pairs, drawn_pairs, strict=True):
            for index, marks in zip(*places, strict=True):
                same = len(index) == len(marks)
                points[:, list(index)] = drawn[:, list(marks)] if same else drawn[:, list(marks)].mean(1, keepdims=True)
    for pairs in (OUTER_EYES, INNER_LIPS):
        points[:, list(pairs[HAND])] = drawn[:, list(pairs[drawn.shape[1]])]
    return points


def write_folder(folder, people, points189, photos, /, **changes):
    """photos: (P, 2, H, W, 3) uint8, neutral and smiling. changes: of the labels' fields; None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    for person, both in zip(people, photos, strict=True):
        for mood, picture in zip(london.MOODS, both, strict=True):
            Image.fromarray(picture).save(folder / f"{person}_{mood}.jpg", quality=98, subsampling=0)
    count = len(people)
    labels = {"people": np.array(people), "points189": points189.astype(np.float32)}
    labels |= {"age": np.full(count, 30.0), "gender": np.array(["female", "male"] * count)[:count]}
    labels |= {"ethnicity": np.array(["white", "black"] * count)[:count], **changes}
    np.savez(folder / "labels.npz", **{name: value for name, value in labels.items() if value is not None})
    return folder


def toy_people(model, count: int = 5, seed: int = 0) -> FaceParameters:
    """Frontal people of different shape and colour, framed as crops are."""
    generator = torch.Generator().manual_seed(seed)
    one = FaceParameters.neutral(model, count)
    one = one.replace(
        identity=torch.randn(count, model.n_identity, generator=generator),
        albedo=torch.randn(count, model.n_albedo, generator=generator) * 0.5,
    )
    points = model.landmarks(model.vertices(one.identity, one.expression))
    place = faces.frame(points, one.rotation, one.focal, torch.zeros(count, 2), torch.ones(count))
    return one.replace(translation=place)


class Knows(ToySystem):
    """A system that knows everybody: it answers any P crops with the parameters of the P people, in their order."""

    image_size, weights = 16, "knows"

    def __init__(self, model, parameters):
        super().__init__(model)
        self.parameters = parameters

    def predict_crops(self, crops):
        return self.parameters[list(range(len(crops)))]


def toy_folder(folder, model, parameters, size=160, **changes):
    """The people as they are, unlit, on photos that are their crops; a bright photo for the smiling one."""
    with torch.no_grad():
        drawn = [render_face(model, parameters[k], size, shading=False).image for k in range(len(parameters))]
    pictures = (torch.cat(drawn).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    hand = by_hand(size * in_crop(model, parameters, "ibug").double().numpy())
    hand[:, list(CHEEKS)] = size * np.array([[0.4, 0.5], [0.45, 0.5], [0.55, 0.5], [0.6, 0.5]])
    crops = np.tile(np.array([0, 0, size, size], np.float32), (len(parameters), 2, 1))
    people = [f"{k:03d}" for k in range(1, len(parameters) + 1)]
    return write_folder(folder, people, hand, np.stack([pictures, pictures], 1), **({"crops": crops} | changes))
