"""From a photo to faces, and from faces to files: `predictor` does the former with `detector` (which asks `yunet`),
`weights` and `graph`, `mesh_files` and `glb` the latter, `encoder_export` writes the network alone. `engine` runs the
graphs of `yunet` and `graph`.

`Predictor` and `Face` are loaded when they are asked for, so that the detector alone does not import the network.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Predictor", "Face"):
        from mlanet_lib.predictor import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
