"""The one face model class: decoding, gradients, files."""

import numpy as np
import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel


def parts(model, **changes):
    given = {
        field: torch.tensor(value.astype(np.float64) if value.dtype.kind == "f" else value)
        for field, value in model.contents().items()
    }
    return {**given, "expression_names": list(model.expression_names), "name": model.name, **changes}


def test_vertices_and_albedo_are_linear_combinations(toy_model):
    identity = torch.tensor([[0.0, 1.0, 0.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    expression = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    vertices = toy_model.vertices(identity, expression)
    basis, mimic = toy_model.identity_basis, toy_model.expression_basis
    expected = toy_model.mean + basis[..., 1] - 2 * basis[..., 3] + 0.5 * mimic[..., 0]
    torch.testing.assert_close(vertices[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(vertices[1], toy_model.mean + mimic[..., 3], atol=1e-4, rtol=0)
    albedo = toy_model.albedo(torch.tensor([[0.0, 3.0, 0.0]]))
    torch.testing.assert_close(albedo[0], toy_model.albedo_mean + 3 * toy_model.albedo_basis[..., 1])
    assert (toy_model.n_identity, toy_model.n_expression, toy_model.n_albedo) == (5, 4, 3)


def test_wrong_number_of_coefficients_is_refused(toy_model):
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(B, 5\)"):
        toy_model.vertices(torch.zeros(2, 4), torch.zeros(2, 4))


def test_landmarks_are_vertices(toy_model):
    vertices = torch.randn(3, toy_model.n_vertices, 3)
    landmarks = toy_model.landmarks(vertices)
    assert landmarks.shape == (3, 68, 3)
    torch.testing.assert_close(landmarks[:, 67], vertices[:, -1])


def test_landmarks_may_lie_between_vertices(toy_model, tmp_path):
    index = torch.randint(0, toy_model.n_vertices, (68, 3), generator=torch.Generator().manual_seed(0))
    weights = torch.rand(68, 3, generator=torch.Generator().manual_seed(1))
    weights /= weights.sum(1, keepdim=True)
    model = toy_model.replace(landmark_index=index, landmark_weights=weights)
    vertices = torch.randn(2, toy_model.n_vertices, 3)
    expected = sum(weights[:, k, None] * vertices[:, index[:, k]] for k in range(3))
    torch.testing.assert_close(model.landmarks(vertices), expected)
    basis = model.landmarks(model.identity_basis[None])[0]
    torch.testing.assert_close(basis[..., 2], model.landmarks(model.identity_basis[None, ..., 2])[0])
    model.save(tmp_path / "between.npz")
    again = MorphableModel.load(tmp_path / "between.npz")
    assert again.fingerprint == model.fingerprint != toy_model.fingerprint
    torch.testing.assert_close(again.landmark_weights, model.landmark_weights, atol=0, rtol=0)
    for wrong in (weights * 2, weights - 1):
        with pytest.raises(UserError, match="'landmark_weights' holds rows"):
            toy_model.replace(landmark_index=index, landmark_weights=wrong)
    with pytest.raises(UserError, match="'landmark_index' has shape"):
        toy_model.replace(landmark_weights=weights)


def test_normals_of_a_sphere_point_outwards(toy_model):
    sphere = torch.nn.functional.normalize(toy_model.mean, dim=-1)[None]
    inner = (toy_model.uv - 0.5).abs().amax(1) < 0.4
    normals = toy_model.normals(100 * sphere)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(1, toy_model.n_vertices))
    assert ((normals * sphere).sum(-1)[0, inner] > 0.99).all()


def test_normals_of_a_collapsed_mesh_are_finite(toy_model):
    assert toy_model.normals(torch.zeros(1, toy_model.n_vertices, 3)).isfinite().all()


def test_gradients_agree_with_finite_differences(toy_model):
    model = MorphableModel(**parts(toy_model)).double()
    identity = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    expression = torch.full((1, 4), 0.3, dtype=torch.float64, requires_grad=True)

    def probe(a, b):
        vertices = model.vertices(a, b)
        return model.normals(vertices)[:, ::37].sum() + model.landmarks(vertices).square().mean()

    assert torch.autograd.gradcheck(probe, (identity, expression), atol=1e-5)


def test_subset_is_spread_and_nested(toy_model):
    index = toy_model.subset_index(40)
    assert len(set(index.tolist())) == 40
    assert toy_model.subset_index(10).tolist() == index[:10].tolist()
    assert len(toy_model.subset_index(10**6)) == toy_model.n_vertices
    chosen = toy_model.mean[index]
    gaps = torch.cdist(chosen, chosen) + 1e6 * torch.eye(40)
    farthest_from_subset = torch.cdist(toy_model.mean, chosen).amin(1).amax()
    assert farthest_from_subset <= gaps.amin() + 1e-4


def test_save_and_load_are_exact_and_bitwise_repeatable(toy_model, tmp_path):
    toy_model.save(tmp_path / "a" / "model.npz")
    loaded = MorphableModel.load(tmp_path / "a" / "model.npz")
    for field, value in toy_model.contents().items():
        assert np.array_equal(value, loaded.contents()[field])
        assert torch.equal(getattr(toy_model, field), getattr(loaded, field))
    assert (loaded.name, loaded.expression_names) == (toy_model.name, toy_model.expression_names)
    assert loaded.fingerprint == toy_model.fingerprint
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "a" / "model.npz").read_bytes()
    assert not list(tmp_path.rglob("*.part*"))


def test_fingerprint_tells_models_apart(toy_model):
    assert MorphableModel(**parts(toy_model)).fingerprint == toy_model.fingerprint
    moved = toy_model.mean.clone()
    moved[3, 1] += 0.01
    assert MorphableModel(**parts(toy_model, mean=moved)).fingerprint != toy_model.fingerprint
    assert MorphableModel(**parts(toy_model, name="other")).fingerprint != toy_model.fingerprint


def test_model_stays_out_of_checkpoints(toy_model):
    assert not toy_model.state_dict()
    assert MorphableModel(**parts(toy_model)).double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uv": torch.zeros(7, 2)}, "'uv' has shape"),
        ({"landmark_index": torch.arange(67)}, "'landmark_index' has shape"),
        ({"landmark_index": torch.full((68,), 10**6)}, "'landmark_index' points outside"),
        ({"expression_names": ["jawOpen"]}, "'expression_basis' has shape"),
        ({"expression_names": ["a", "b", "c", "a"]}, "twice"),
        ({"name": ""}, "'name' is empty"),
    ],
)
def test_inconsistent_parts_are_named(toy_model, change, message):
    with pytest.raises(UserError, match=message):
        MorphableModel(**parts(toy_model, **change))


def test_numbers_that_half_precision_cannot_hold_are_refused(toy_model):
    for value in (float("nan"), 1e6):
        basis = toy_model.identity_basis.clone()
        basis[0, 0, 0] = value
        with pytest.raises(UserError, match="'identity_basis' holds numbers that are not finite"):
            MorphableModel(**parts(toy_model, identity_basis=basis))


def rewrite(path, **changes):
    with np.load(path) as archive:
        arrays = {field: archive[field] for field in archive.files}
    arrays.update(changes)
    np.savez(path, **{field: value for field, value in arrays.items() if value is not None})


def save_bare_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "not found"),
        (lambda path: path.write_text("no model"), "not a readable face model"),
        (lambda path: path.write_bytes(b""), "not a readable face model"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a readable face model"),
        (lambda path: np.savez(path, a=np.zeros(3)), "not an mlanet face model"),
        (save_bare_array, "not a readable face model"),
        (lambda path: rewrite(path, faces=None), "no field faces"),
        (lambda path: rewrite(path, faces=np.array([[0, 1, 9999]])), "'faces' points outside"),
        (lambda path: rewrite(path, faces=np.zeros((4, 3))), "'faces' has type float64"),
        (lambda path: rewrite(path, mean=np.array([["a", "b", "c"]])), "'mean' has type"),
        (lambda path: rewrite(path, mean=np.zeros((3, 3))), "has shape"),
        (lambda path: rewrite(path, name=np.array([{}], dtype=object)), "not a readable face model"),
    ],
)
def test_broken_files_are_user_errors(toy_model, tmp_path, damage, message):
    path = tmp_path / "model.npz"
    toy_model.save(path)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        MorphableModel.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_unwritable_place_is_a_user_error(toy_model, tmp_path):
    (tmp_path / "model.npz").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        toy_model.save(tmp_path / "model.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_model_without_ibug_points_has_one_definition_and_bfms_frame(toy_model):
    vertices = toy_model.mean[None]
    assert torch.equal(toy_model.landmarks(vertices, "ibug"), toy_model.landmarks(vertices))
    assert torch.equal(toy_model.bfm_rotation, torch.eye(3))


def test_ibug_points_and_bfms_frame_are_kept(toy_model, tmp_path):
    index = np.tile(np.array([0, 1, 2]), (68, 1))
    weights = np.tile([0.25, 0.25, 0.5], (68, 1))
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    model = toy_model.replace(ibug_index=index, ibug_weights=weights, bfm_rotation=turn)
    model.save(tmp_path / "model.npz")
    again = MorphableModel.load(tmp_path / "model.npz")
    assert again.fingerprint == model.fingerprint != toy_model.fingerprint
    place = model.mean[:3].T @ torch.tensor([0.25, 0.25, 0.5])
    assert torch.allclose(again.landmarks(again.mean[None], "ibug")[0], place.expand(68, 3), atol=1e-5)
    assert torch.allclose(again.landmarks(again.mean[None]), toy_model.landmarks(toy_model.mean[None]))
    assert np.allclose(again.bfm_rotation, turn)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ibug_index": np.zeros((68, 3), int)}, "belong together"),
        ({"ibug_index": np.zeros((68, 3), int), "ibug_weights": np.ones((68, 3))}, "ibug_weights"),
        ({"bfm_rotation": np.diag([1.0, 1.0, -1.0])}, "no rotation"),
        ({"bfm_rotation": np.eye(2)}, "bfm_rotation"),
    ],
)
def test_wrong_optional_fields_are_named(toy_model, changes, says):
    with pytest.raises(UserError, match=says):
        toy_model.replace(**changes)
