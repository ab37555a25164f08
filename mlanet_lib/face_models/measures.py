"""Named anthropometric measures of the head and face (after Farkas 1994), as linear functions of the shape.

Each is the difference of two named points along one axis of the model frame, so that it is exactly linear in the
coordinates. Points: `lmK` is landmark K of the 68 (the left one of a pair); the others are in `POINTS`.
"""

import numpy as np

# Points beside the 68, near these places (mm) of the mean head; left one of a pair.
POINTS = {
    "eu": (78.0, 75.0, -15.0),  # euryon, widest of the skull
    "v": (0.0, 145.0, 10.0),  # vertex
    "op": (0.0, 60.0, -90.0),  # opisthocranion
    "g": (0.0, 58.0, 108.0),  # glabella
    "tr": (0.0, 108.0, 92.0),  # trichion, the hairline
    "zy": (68.0, 22.0, 62.0),  # zygion
    "ch_k": (42.0, 5.0, 90.0),  # cheek
    "sl": (0.0, -53.0, 108.0),  # sublabiale
    "ear_o": (92.0, 40.0, 15.0),  # postaurale
    "ear_t": (86.0, 57.0, 20.0),  # superaurale
    "ear_b": (76.0, -2.0, 22.0),  # subaurale
    "c": (0.0, -85.0, 60.0),  # cervical point, chin to neck
    "al": (17.5, -6.0, 105.0),  # alare
}

# name: (first point, second point, axis); a point ending in ~ is the right one of its pair; value = first - second
MEASURES = {
    "head_width": ("eu", "eu~", 0),
    "head_length": ("g", "op", 2),
    "head_height": ("v", "lm27", 1),
    "forehead_height": ("tr", "g", 1),
    "forehead_slope": ("tr", "g", 2),
    "face_width": ("zy", "zy~", 0),
    "jaw_width": ("lm12", "lm12~", 0),
    "chin_width": ("lm10", "lm10~", 0),
    "jaw_angle_height": ("lm45", "lm12", 1),
    "face_depth": ("lm33", "lm16", 2),
    "lower_face_height": ("lm33", "lm8", 1),
    "chin_height": ("sl", "lm8", 1),
    "chin_protrusion": ("lm8", "lm33", 2),
    "nose_height": ("lm27", "lm33", 1),
    "nose_width": ("al", "al~", 0),
    "nose_protrusion": ("lm30", "lm33", 2),
    "nose_tip_height": ("lm30", "lm33", 1),
    "nose_bridge": ("lm28", "lm42", 2),
    "nasion_depth": ("lm27", "lm42", 2),
    "intercanthal_width": ("lm42", "lm42~", 0),
    "biocular_width": ("lm45", "lm45~", 0),
    "eye_fissure_height": ("lm43", "lm47", 1),
    "canthal_tilt": ("lm45", "lm42", 1),
    "brow_height": ("lm24", "lm44", 1),
    "brow_depth": ("lm24", "lm44", 2),
    "cheek_prominence": ("ch_k", "lm33", 2),
    "mouth_width": ("lm54", "lm54~", 0),
    "upper_lip_length": ("lm33", "lm62", 1),
    "upper_lip_thickness": ("lm51", "lm62", 1),
    "lower_lip_thickness": ("lm66", "lm57", 1),
    "lip_protrusion": ("lm51", "lm33", 2),
    "ear_protrusion": ("ear_o", "ear_o~", 0),
    "ear_length": ("ear_t", "ear_b", 1),
    "neck_depth": ("lm8", "c", 2),
}


def measure_matrix(point_index: dict[str, int], twin: np.ndarray, size: int) -> np.ndarray:
    """(M, size, 3): applied to vertices (size,3) in mm it gives the M measures. `point_index` names vertices on the
    left, `twin (size,)` is each vertex's mirror image."""
    matrix = np.zeros((len(MEASURES), size, 3))
    for row, (first, second, axis) in enumerate(MEASURES.values()):
        for point, sign in ((first, 1.0), (second, -1.0)):
            vertex = point_index[point.rstrip("~")]
            matrix[row, twin[vertex] if point.endswith("~") else vertex, axis] += sign
    return matrix
