"""The face model that needs no download: built from tables of measured statistics and from mathematics, in seconds."""

import numpy as np

from mlanet_lib.face_model import MorphableModel, farthest_points, landmark_twins
from mlanet_lib.face_models import landmarks, motion, parts, semilandmarks, topology
from mlanet_lib.face_models.appearance import albedo
from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.identity import identity_modes

NAME = "anthropometric"


def build(calibrated: bool = True) -> MorphableModel:
    """Build the model; the same bits every time on one machine.

    calibrated: the 68 points where photos' labels have them (`landmarks`), else at the vertices that ICT-FaceKit names.
    """
    table = semilandmarks.load()
    skin = topology.build_skin(table)
    names = [name for name in table.expressions if name not in motion.LEFT_OUT]
    kept = [0, *(1 + k for k, name in enumerate(table.expressions) if name in names)]
    fields = table.surface(skin.chart)[:, :, kept]
    n = len(skin.chart)
    mean = motion.close_lips(fields[:, :, 0], skin)
    expression = motion.settle(fields[:, :, 1:])
    left, right = names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")
    blink = motion.close_lids(expression[:, :, left], mean, skin)
    expression[:, :, left], expression[:, :, right] = blink, blink[skin.twin] * MIRROR
    subset = farthest_points(mean, 320)
    identity = identity_modes(mean, skin.twin, skin.labels, subset)

    source, depth, pocket_faces = parts.pocket(skin.rings["mouth"], n)
    keep = (1 - depth)[:, None]
    pocket_mean = keep * mean[source] + (1 - keep) * parts.POCKET_END
    eyes = [parts.eyeball(side) for side in (1, -1)]
    rows = [parts.teeth(parts.UPPER_ROWS), parts.teeth(parts.LOWER_ROWS)]
    patches = [*eyes, *rows]

    vertices, faces = [mean, pocket_mean], [skin.faces, pocket_faces]
    identities = [identity, keep[..., None] * identity[source]]
    expressions = [expression, keep[..., None] * expression[source]]
    for ring, patch in zip(("left", "right"), eyes, strict=True):
        shift = identity[skin.rings[ring]].mean(0)
        motion.rest_on_eyeball(identities[0], mean, motion.eye_centre(ring), shift)
        identities.append(np.broadcast_to(shift, (len(patch.points), *shift.shape)))
        expressions.append(np.zeros((len(patch.points), 3, len(names))))
    for patch, points in zip(rows, ((51, 33), (57, 8)), strict=True):
        anchor = [skin.labels[f"lm{k}"] for k in points]
        shift = identities[0][anchor].mean(0)
        shift[0] = 0 * shift[0]
        identities.append(np.broadcast_to(shift, (len(patch.points), *shift.shape)))
        expressions.append(np.zeros((len(patch.points), 3, len(names))))
    expressions[-1] = motion.lower_teeth_motion(rows[1].points, names, expression[skin.labels["sl"]])
    start = n + len(pocket_mean)
    for patch in patches:
        vertices.append(patch.points)
        faces.append(patch.faces + start)
        start += len(patch.points)

    twins = landmark_twins()
    landmark_index = np.array(
        [
            skin.labels[f"lm{k}"] if f"lm{k}" in skin.labels else skin.twin[skin.labels[f"lm{twins[k]}"]]
            for k in range(68)
        ]
    )
    albedo_mean, albedo_basis = albedo(mean, skin, depth, patches)
    model = MorphableModel(
        mean=np.concatenate(vertices).astype(np.float32),
        identity_basis=np.concatenate(identities),
        expression_basis=np.concatenate(expressions),
        albedo_mean=albedo_mean,
        albedo_basis=albedo_basis,
        faces=np.concatenate(faces),
        uv=_unwrap(skin, source, depth, patches),
        landmark_index=landmark_index,
        expression_names=names,
        name=NAME,
    )
    return landmarks.placed(model, landmarks.load(NAME)) if calibrated else model


def _unwrap(skin: topology.Skin, source: np.ndarray, depth: np.ndarray, patches: list) -> np.ndarray:
    """(V,2) in [0,1]: Lambert's azimuthal projection of the chart around the face; the patches in the corners."""
    ring = skin.chart[skin.rings["mouth"]]
    middle = topology.unit(ring.mean(0))
    inner = topology.unit(depth[:, None] * middle + (1 - depth[:, None]) * skin.chart[source])
    chart = np.concatenate([skin.chart, inner])
    flat = chart[:, :2] / np.sqrt(2 * (1 + chart[:, 2:]).clip(1e-9))
    uv = [0.5 + 0.49 * flat]
    for corner, patch in zip(((0.92, 0.92), (0.08, 0.92), (0.86, 0.02), (0.02, 0.02)), patches, strict=True):
        if len(patch.points) == len(patches[0].points):
            angle = patch.grid[:, 1] * 2 * np.pi
            x = np.cos(angle) * (1 if corner[0] > 0.5 else -1)
            uv.append(np.array(corner) + 0.07 * patch.grid[:, :1] * np.stack([x, np.sin(angle)], 1))
        else:
            uv.append(np.array(corner) + np.stack([0.12 * patch.grid[:, 1], 0.06 * (1 - patch.grid[:, 0])], 1))
    return np.concatenate(uv)
