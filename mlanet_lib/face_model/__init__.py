"""The 3D morphable face model."""

from mlanet_lib.face_model.model import MorphableModel as MorphableModel
