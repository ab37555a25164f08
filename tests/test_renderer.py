"""The differentiable renderer: values, gradients against finite differences, faces recovered from their pictures."""

import pytest
import torch

from mlanet_lib.geometry.camera import euler_to_matrix, project, rotation_6d_to_matrix
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.metrics import vertex_error
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.rasterizer import numba_backend, rasterize
from mlanet_lib.rasterizer.interpolation import (
    interpolate,
    interpolate_reference,
    vertex_normals,
    vertex_normals_reference,
)
from mlanet_lib.renderer import decode, landmarks_visible, render, render_face, turned

DOUBLE = torch.float64


def random_mesh(seed: int, batch: int = 2, count: int = 6, dtype=DOUBLE):
    """A few large triangles in front of a camera with focal 1: vertices (B, V, 3) mm, faces, colours, focal."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(batch, 3 * count, 3, generator=generator, dtype=dtype) * 2 - 1
    vertices = vertices * torch.tensor([500.0, 500, 300]) + torch.tensor([0.0, 0, 1000])
    colours = torch.rand(batch, 3 * count, 4, generator=generator, dtype=dtype)
    return vertices.to(dtype), torch.arange(3 * count).reshape(-1, 3), colours, torch.ones(batch, dtype=dtype)


def random_parameters(model, batch: int, seed: int, dtype=torch.float32) -> FaceParameters:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    parameters = FaceParameters.neutral(model, batch)
    lamp = torch.nn.functional.normalize(torch.tensor([[0.5, 0.4, 0.8]]), dim=-1).repeat(batch, 1)
    return parameters.replace(
        identity=0.7 * normal(batch, model.n_identity),
        expression=0.3 * normal(batch, model.n_expression).abs(),
        albedo=0.7 * normal(batch, model.n_albedo),
        rotation=euler_to_matrix(15 * normal(batch, 3)),
        lighting=ambient(batch, 0.5) + directional(lamp, torch.full((batch, 3), 0.5)) + 0.1 * normal(batch, 9, 3),
    ).to(dtype)


def test_interpolation_is_perspective_correct():
    """Attributes that are linear in space come out as the space point seen at the pixel."""
    vertices, faces, _, focal = random_mesh(0)
    drawing = render(vertices, faces, vertices, focal, (40, 50))
    mask = drawing.mask[:, 0] > 0
    assert 0.2 < mask.double().mean() < 0.95
    points = drawing.image.permute(0, 2, 3, 1)
    pixels = project(points.reshape(2, -1, 3), focal, 40, 50).reshape(2, 40, 50, 3)[..., :2]
    row, column = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(50) + 0.5, indexing="ij")
    centres = torch.stack([column, row], -1).to(DOUBLE).expand_as(pixels)
    assert torch.allclose(pixels[mask], centres[mask], atol=1e-9)
    assert torch.allclose(drawing.depth[:, 0][mask], points[..., 2][mask])
    assert torch.isinf(drawing.depth[:, 0][~mask]).all() and (points[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_kernels_equal_the_reference(dtype):
    """Values and gradients of the numba kernels against plain tensor operations."""
    vertices, faces, colours, focal = random_mesh(1, dtype=dtype)
    projected = project(vertices, focal, 40, 50).requires_grad_()
    colours.requires_grad_()
    face_index = rasterize(projected, faces, 40, 50, "numba").face_index
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 4, 40, 50, generator=generator, dtype=dtype)
    results = []
    for function in (interpolate, interpolate_reference):
        image, depth = function(projected, faces, colours, face_index)
        loss = (image * weight).sum() + depth[face_index >= 0].square().mean()
        results.append((image, depth, *torch.autograd.grad(loss, (projected, colours))))
    for found, expected in zip(*results, strict=True):
        finite = torch.isfinite(expected)
        assert torch.equal(torch.isfinite(found), finite)
        scale = expected[finite].abs().max()
        assert (found - expected)[finite].abs().max() < scale * (2e-3 if dtype == torch.float32 else 1e-10)


def test_normals_equal_the_reference_and_gradcheck(toy_model):
    vertices = toy_model.mean.to(DOUBLE)[None].repeat(2, 1, 1)
    vertices = (vertices + torch.randn(vertices.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    weight = torch.randn(vertices.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    results = []
    for function in (vertex_normals, vertex_normals_reference):
        normals = function(vertices, toy_model.faces)
        results.append((normals, torch.autograd.grad((normals * weight).sum(), vertices)[0]))
    assert all(torch.allclose(found, expected, atol=1e-12) for found, expected in zip(*results, strict=True))
    assert torch.allclose(results[0][0], toy_model.double().normals(vertices)), "the model's own normals"
    toy_model.float()
    few = 10 * torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(3), dtype=DOUBLE).requires_grad_()
    faces = torch.randint(0, 12, (20, 3), generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces), few.detach().requires_grad_(), atol=1e-6)


def test_normals_point_out_of_the_face(toy_model):
    parameters = FaceParameters.neutral(toy_model)
    normals = decode(toy_model, parameters).normals[0]
    assert normals[toy_model.mean[:, 2].argmax(), 2] > 0.99
    outside = torch.nn.functional.normalize(toy_model.mean, dim=-1)
    assert ((normals * outside).sum(-1) > 0.5).all()


def test_render_gradcheck():
    """Every gradient of `render` against finite differences, at pixels far enough from a change of face."""
    vertices, faces, colours, focal = random_mesh(3, count=3)
    mask = stable_pixels(lambda v: render(v, faces, colours, focal, (9, 11)).fragments.face_index, vertices)
    assert mask.sum() > 20

    def stable(vertices, colours, focal):
        drawing = render(vertices, faces, colours, focal, (9, 11))
        depth = torch.where(mask & (drawing.mask[:, 0] > 0), drawing.depth[:, 0], 0.0)
        return drawing.image * mask[:, None], depth

    inputs = [tensor.requires_grad_() for tensor in (vertices, colours, focal)]
    assert torch.autograd.gradcheck(stable, inputs, eps=1e-6, atol=1e-6)


def stable_pixels(face_index, vertices, step: float = 0.5):
    """Pixels (B, H, W) whose face stays when the vertices move a little: those with no other face around, too."""
    generator = torch.Generator().manual_seed(9)
    first = face_index(vertices)
    same = torch.ones_like(first, dtype=torch.bool)
    for _ in range(30):
        moved = vertices + step * torch.randn(vertices.shape, generator=generator, dtype=vertices.dtype)
        same &= face_index(moved) == first
    return same


@pytest.mark.parametrize("name", FaceParameters.names())
def test_face_gradients_against_finite_differences(toy_model, name):
    """d(picture) / d(parameter) along random directions, in float64, where no pixel changes its face."""
    model = toy_model.double()
    parameters = random_parameters(model, 2, 4, DOUBLE)
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(getattr(parameters, name).shape, generator=generator, dtype=DOUBLE)
    direction = direction * {"translation": 1.0, "focal": 0.01}.get(name, 0.01)
    weight = torch.randn(2, 3, 24, 24, generator=generator, dtype=DOUBLE)
    step, value = 1e-4, getattr(parameters, name)

    def picture(amount):
        return render_face(model, parameters.replace(**{name: value + amount * direction}), 24)

    low, high = picture(-step), picture(step)
    same = (low.fragments.face_index == high.fragments.face_index)[:, None]
    assert same.double().mean() > 0.98
    weight = weight * same
    numeric = ((high.image - low.image) * weight).sum() / (2 * step)
    amount = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    (exact,) = torch.autograd.grad((picture(amount).image * weight).sum(), amount)
    toy_model.float()
    assert abs(numeric) > 1e-6
    assert torch.allclose(exact, numeric, rtol=1e-4)


def test_any_number_of_threads_gives_the_same_gradients(toy_model, monkeypatch):
    parameters = random_parameters(toy_model, 3, 6)
    before, found = torch.get_num_threads(), []
    try:
        monkeypatch.setattr(numba_backend, "WORTH_THREADS", 0)
        for threads in (1, 4):
            torch.set_num_threads(threads)
            tensors = {name: value.clone().requires_grad_() for name, value in parameters.as_tensors().items()}
            drawing = render_face(toy_model, FaceParameters.from_tensors(tensors), 48)
            drawing.image.square().sum().backward()
            found.append([drawing.image, *(tensor.grad for tensor in tensors.values())])
    finally:
        torch.set_num_threads(before)
    for one, many in zip(*found, strict=True):
        assert torch.allclose(one, many, rtol=1e-4, atol=1e-5 * one.abs().max().item())


def test_shading_albedo_and_size(toy_model):
    parameters = random_parameters(toy_model, 2, 7)
    grey = render_face(toy_model, parameters, (30, 50), shading=False, albedo=0.4)
    inside = grey.mask.expand_as(grey.image) > 0
    assert grey.image.shape == (2, 3, 30, 50) and torch.allclose(grey.image[inside], torch.tensor(0.4))
    shaded = render_face(toy_model, parameters, (30, 50), albedo=torch.full((3,), 0.4))
    assert shaded.image[inside].std() > 0.01
    bare = render_face(toy_model, parameters, (30, 50), shading=False)
    white = parameters.replace(lighting=ambient(2))
    assert torch.allclose(render_face(toy_model, white, (30, 50)).image, bare.image, atol=1e-5)


def test_the_picture_does_not_depend_on_its_size(toy_model):
    parameters = random_parameters(toy_model, 1, 8)
    small, large = (render_face(toy_model, parameters, size) for size in (64, 256))
    reduced = torch.nn.functional.avg_pool2d(large.image, 4)
    assert (reduced - small.image).abs().mean() < 0.01


def test_light_comes_from_where_it_says(toy_model):
    """A lamp at the image's right, above: that side of a frontal face is brighter."""
    for direction, brighter in (([1.0, 0.0, 0.0], "right"), ([0.0, 1.0, 0.0], "top")):
        lamp = directional(torch.tensor([direction]), torch.ones(1, 3))
        image = render_face(toy_model, FaceParameters.neutral(toy_model).replace(lighting=lamp), 64).image[0, 0]
        halves = {"right": (image[:, 32:], image[:, :32]), "top": (image[:32], image[32:])}[brighter]
        assert halves[0].mean() > halves[1].mean() + 0.05


def test_landmarks_are_where_the_mesh_is_drawn(toy_model):
    parameters = random_parameters(toy_model, 2, 9)
    decoded = decode(toy_model, parameters)
    drawn = render(decoded.vertices_camera, toy_model.faces, decoded.vertices_camera, decoded.focal, 200)
    points = decoded.landmarks2d(200)
    visible = landmarks_visible(toy_model, parameters)
    assert visible.float().mean() > 0.3
    facing = toy_model.landmarks(decoded.normals)[..., 2] > 0.4  # elsewhere one pixel spans many millimetres
    checked = 0
    for n, k in (visible & facing).nonzero().tolist():
        column, row = points[n, k].floor().long().clamp(0, 199).tolist()
        if drawn.mask[n, 0, row, column]:
            assert (drawn.image[n, :, row, column] - decoded.landmarks[n, k]).norm() < 3
            checked += 1
    assert checked > 30


def test_points_on_the_far_side_are_hidden(toy_model):
    """Turned to the image's left, the face hides its right side; frontal it hides nothing."""
    parameters = FaceParameters.neutral(toy_model, 2)
    degrees = torch.tensor([[0.0, 0.0, 0.0], [0.0, 70.0, 0.0]])
    visible = landmarks_visible(toy_model, parameters.replace(rotation=euler_to_matrix(degrees)))
    side = toy_model.landmarks(toy_model.mean[None])[0, :, 0]
    assert visible[0].all()
    assert visible[1, side > 30].all() and not visible[1, side < -35].any()


def test_lids_and_lips_of_a_frontal_face_are_visible(face_model):
    """Sharp rims, whose normals point anywhere; and in profile the far half is hidden."""
    parameters = FaceParameters.neutral(face_model, 2)
    degrees = torch.tensor([[0.0, 0.0, 0.0], [0.0, 60.0, 0.0]])
    visible = landmarks_visible(face_model, parameters.replace(rotation=euler_to_matrix(degrees)))
    assert visible[0, 17:].all()  # the ends of the jaw lie beyond the cheeks' outline
    far, near = [0, 1, 2, 3, 38, 39], [13, 14, 15, 16, 42, 45]  # jaw and eyes; 36 lies on the nose's outline
    assert not visible[1, far].any() and visible[1, near].all()


def test_a_point_behind_another_surface_is_hidden(toy_model):
    """The depth test, by a mesh that stands between: a copy of the face, nearer to the camera."""
    from types import SimpleNamespace

    size = len(toy_model.mean)
    nearer = toy_model.mean + torch.tensor([0.0, 0.0, 150.0])
    double = SimpleNamespace(
        mean=toy_model.mean,
        faces=torch.cat([toy_model.faces, toy_model.faces + size]),
        vertices=lambda *_: torch.cat([toy_model.mean, nearer])[None],
        landmarks=toy_model.landmarks,
    )
    parameters = FaceParameters.neutral(toy_model)
    inner = toy_model.landmarks(toy_model.mean[None])[0, :, :2].abs().amax(-1) < 50
    assert landmarks_visible(toy_model, parameters)[0, inner].all()
    assert not landmarks_visible(double, parameters)[0, inner].any()


def test_turned_keeps_the_middle_in_place(toy_model):
    parameters = random_parameters(toy_model, 2, 10)
    profile = turned(toy_model, parameters, euler_to_matrix(torch.tensor([[0.0, 60.0, 0.0]])))
    middles = [decode(toy_model, p).landmarks.mean(1) for p in (parameters, profile)]
    assert torch.allclose(*middles, atol=1e-2)
    assert torch.allclose(profile.pose_degrees()[:, 1], torch.full((2,), 60.0), atol=1e-3)


def test_autocast_does_not_lower_the_precision(toy_model):
    parameters = random_parameters(toy_model, 1, 11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = render_face(toy_model, parameters, 48)
    assert torch.equal(low.image, render_face(toy_model, parameters, 48).image)


def recover(model, batch: int, size: int, steps: int, seed: int, prior: float = 0.0):
    """Pictures of faces, and the parameters that descent on pixels and landmarks finds from a perturbed start.

    Returns the errors before and after: vertices mm after a similarity (one picture does not tell a large face from a
    near one), pose degrees, mean colour error inside the mask. prior: what shape's mean squared coefficients cost.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor, scale):
        return tensor + scale * torch.randn(tensor.shape, generator=generator)

    truth = random_parameters(model, batch, seed)
    with torch.no_grad():
        photo, points = render_face(model, truth, size).image, decode(model, truth).landmarks2d(size)
        mask = render_face(model, truth, size).mask
    degrees = noise(truth.pose_degrees(), 5.0)
    start = {
        "identity": torch.zeros_like(truth.identity),
        "expression": torch.zeros_like(truth.expression),
        "albedo": torch.zeros_like(truth.albedo),
        "lighting": ambient(batch, 0.8),
        "six": euler_to_matrix(degrees).mT[..., :2, :].flatten(-2),
        "translation": noise(truth.translation, 5.0) / 100,
    }
    tensors = {name: value.clone().requires_grad_() for name, value in start.items()}

    def parameters():
        free = {name: tensors[name] for name in ("identity", "expression", "albedo", "lighting")}
        rotation = rotation_6d_to_matrix(tensors["six"])
        return FaceParameters(**free, rotation=rotation, translation=tensors["translation"] * 100, focal=truth.focal)

    def errors():
        with torch.no_grad():
            found, drawing = parameters(), render_face(model, parameters(), size)
            shapes = [decode(model, p).vertices.numpy() for p in (found, truth)]
            shape = vertex_error(*shapes).mean()
            pose = (found.pose_degrees() - truth.pose_degrees()).abs().mean().item()
            return shape, pose, ((drawing.image - photo).abs() * mask).mean().item()

    before = errors()
    optimizer = torch.optim.Adam(tensors.values(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.001)
    for _ in range(steps):
        optimizer.zero_grad()
        guess = parameters()
        decoded = decode(model, guess)
        drawing = render_face(model, guess, size, decoded=decoded)
        both = mask * drawing.mask
        colour = ((drawing.image - photo) * both).abs().sum() / both.sum()
        marks = (decoded.landmarks2d(size) - points).square().mean() / size
        usual = guess.identity.square().mean() + guess.expression.square().mean()
        (10 * colour + marks + prior * usual).backward()
        optimizer.step()
        schedule.step()
    return before, errors()


def test_a_toy_face_is_recovered_from_its_picture(toy_model):
    before, after = recover(toy_model, batch=2, size=64, steps=200, seed=12)
    print(before, after)
    assert after[0] < before[0] / 2.5 and after[1] < before[1] / 3 and after[2] < before[2] / 5


def test_a_face_is_recovered_from_its_picture(face_model):
    before, after = recover(face_model, batch=1, size=80, steps=120, seed=13, prior=1.0)
    print(before, after)
    assert after[0] < before[0] / 1.7 and after[1] < before[1] / 4 and after[2] < before[2] / 4
