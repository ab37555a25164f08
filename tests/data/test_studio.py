"""Skin and light of photos in one light: of faces drawn with known ones, and what the photos cannot tell."""

import pytest
import torch

from mlanet_lib.data.studio import FEWEST, skin_and_light
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.lighting import REFLECTED, sh_basis
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import decode, render_face

COUNT, SIDE = 6, 128


def shading(lighting: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """By what grey light (9,) multiplies albedo at normals (N, 3)."""
    return sh_basis(normals) @ (lighting * torch.tensor(REFLECTED))


def drawn(model, faces) -> torch.Tensor:
    """(N, S, S, 3) uint8 pictures before a dark wall."""
    with torch.no_grad():
        drawing = render_face(model, faces, SIDE)
    pictures = torch.where(drawing.mask.bool(), drawing.image, torch.tensor(0.3)).clamp(0, 1)
    return (pictures * 255).round().byte().permute(0, 2, 3, 1)


def ahead(model) -> torch.Tensor:
    """(N, 3) the normals of the mean face that look towards the camera, about those of the cheeks."""
    normals = decode(model, FaceParameters.neutral(model)).normals[0]
    return normals[normals[:, 2] > 0.6]


@pytest.fixture(scope="module")
def studio(face_model):
    """Six people, dark and fair, turned a little, in one light from above and one side; and their pictures."""
    generator = torch.Generator().manual_seed(0)

    def normal(size):
        return torch.randn(COUNT, size, generator=generator)

    neutral = FaceParameters.neutral(face_model, COUNT)
    light = neutral.lighting[0, :, 0].clone()
    light[1:4] += torch.tensor([0.3, 0.5, 0.3])
    light = 0.95 * light / shading(light, ahead(face_model)).mean()  # no colour is cut off at white
    faces = neutral.replace(
        identity=0.7 * normal(face_model.n_identity),
        albedo=normal(face_model.n_albedo),
        rotation=euler_to_matrix(normal(3) * torch.tensor([3.0, 6.0, 2.0])),
        lighting=light[None, :, None].repeat(COUNT, 1, 3),
    )
    return faces, drawn(face_model, faces).numpy()


def skin(model, albedo):
    """(N, V, 3) the albedo's colours."""
    return model.albedo_mean + torch.einsum("vcm,nm->nvc", model.albedo_basis, albedo)


def test_skin_and_light_are_found(face_model, studio):
    faces, photos = studio
    albedo, lighting = skin_and_light(face_model, faces, photos)
    assert albedo.shape == (COUNT, face_model.n_albedo) and lighting.shape == (COUNT, 9, 3)
    assert albedo.dtype == lighting.dtype == torch.float32
    assert (lighting == lighting[:1, :, :1]).all()  # one grey light
    normals = ahead(face_model)
    found, true = (shading(one[0, :, 0], normals) for one in (lighting, faces.lighting))
    level = float((found / true).mean())  # which the photos cannot tell: light is 1 in the mean over the cheeks
    assert 0.95 < level < 1.15
    assert float((found / level - true).abs().mean()) < 0.02 < float((true - true.mean()).abs().mean()) / 2
    for k in range(3):
        assert float(torch.corrcoef(torch.stack([albedo[:, k], faces.albedo[:, k]]))[0, 1]) > 0.98
    off = (skin(face_model, albedo) * level - skin(face_model, faces.albedo)).abs().mean()
    assert float(off) < 0.02 < float((skin(face_model, faces.albedo) - face_model.albedo_mean).abs().mean()) / 2


def test_what_lies_before_a_face_counts_little(face_model, studio):
    """A bright band over a quarter of one face moves its skin far less than the band's colour would."""
    faces, photos = studio
    clean = skin_and_light(face_model, faces, photos)[0]
    photos = photos.copy()
    photos[0, :, SIDE // 2 :][:, : SIDE // 8] = 255
    covered = skin_and_light(face_model, faces, photos)[0]
    moved, others = (
        (skin(face_model, one[0]) - skin(face_model, one[1])).abs().mean((1, 2))
        for one in ((covered[:1], clean[:1]), (covered[1:], clean[1:]))
    )
    assert float(moved) < 0.03 and float(others.max()) < 0.01


def test_two_photos_do_not_tell_skin_from_light(face_model, studio):
    faces, photos = studio
    few = FEWEST - 1
    with pytest.raises(ValueError, match="3 or more photos in the same light"):
        skin_and_light(face_model, faces[:few], photos[:few])
    assert skin_and_light(face_model, faces[:FEWEST], photos[:FEWEST])[0].isfinite().all()
