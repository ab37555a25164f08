"""The 3D morphable face model: `model` is the model itself, `points` and `sparse_shape` are its 68 landmarks; `fitting`
fits it to landmarks, `mirror` flips faces, `coarse` thins the mesh, `activations` names expressions as ARKit does."""

from mlanet_lib.face_model.model import MorphableModel as MorphableModel
