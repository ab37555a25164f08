"""Anti-aliased edges: areas, gradients at the outline, occlusion inside the picture, and a pose found from its mask."""

import gc
import math

import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import euler_to_matrix, project
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.rasterizer import antialiasing, rasterize
from mlanet_lib.rasterizer.antialiasing import half_edges
from mlanet_lib.rasterizer.interpolation import interpolate
from mlanet_lib.renderer import render, render_face

DOUBLE = torch.float64


def polygon(corners: int, rings: int = 1, radius: float = 1.0, dtype=DOUBLE):
    """A regular polygon around 0 as (V, 2) vertices and (F, 3) faces, cut into `rings` from its centre outwards."""
    angle = torch.arange(corners, dtype=dtype) * 2 * math.pi / corners
    rim = radius * torch.stack([angle.cos(), angle.sin()], -1)
    vertices = torch.cat([torch.zeros(1, 2, dtype=dtype)] + [rim * (r + 1) / rings for r in range(rings)])
    faces = []
    for i in range(corners):
        p, q = 1 + i, 1 + (i + 1) % corners
        faces.append((0, p, q))
        for _ in range(rings - 1):
            faces += [(p, p + corners, q + corners), (p, q + corners, q)]
            p, q = p + corners, q + corners
    return vertices, torch.tensor(faces)


def flat(points, faces, height, width, edges="antialiased", colours=None, depth=None):
    """A picture of points (V, 2) given in pixels, at depth 1 or `depth` (V,); colours (V, C) default to 1."""
    depth = torch.ones_like(points[:, 0]) if depth is None else depth
    centre = torch.tensor([width / 2, height / 2], dtype=points.dtype)
    camera = torch.cat([(points - centre) * depth[:, None], width * depth[:, None]], -1)
    colours = torch.ones_like(points[:, :1]) if colours is None else colours
    return render(camera[None], faces, colours[None], torch.ones(1, dtype=points.dtype), (height, width), edges=edges)


def turned(points, radians: float):
    cosine, sine = math.cos(radians), math.sin(radians)
    return points @ torch.tensor([[cosine, sine], [-sine, cosine]], dtype=points.dtype)


def soup(seed: int, count: int = 5, dtype=DOUBLE):
    """Triangles that hide and cut each other: vertices (2, V, 3) mm for focal 1, faces, colours (2, V, 3), focal."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(2, 3 * count, 3, generator=generator, dtype=DOUBLE) * 2 - 1
    vertices = vertices * torch.tensor([500.0, 500, 300]) + torch.tensor([0.0, 0, 1000])
    colours = torch.rand(2, 3 * count, 3, generator=generator, dtype=DOUBLE)
    faces = torch.arange(3 * count).reshape(-1, 3)
    return vertices.to(dtype), faces, colours.to(dtype), torch.ones(2, dtype=dtype)


def test_hard_edges_are_the_default_and_stay_as_they_were():
    vertices, faces, colours, focal = soup(0)
    projected = project(vertices, focal, 30, 40)
    face_index = rasterize(projected, faces, 30, 40).face_index
    image, depth = interpolate(projected, faces, colours, face_index)
    for drawing in (render(vertices, faces, colours, focal, (30, 40), edges=e) for e in ("hard", "antialiased")):
        assert torch.equal(drawing.depth[:, 0], depth) and torch.equal(drawing.fragments.face_index, face_index)
    for drawing in (
        render(vertices, faces, colours, focal, (30, 40)),
        render(vertices, faces, colours, focal, (30, 40), edges="hard"),
    ):
        assert torch.equal(drawing.image, image)
        assert torch.equal(drawing.mask[:, 0], (face_index >= 0).to(DOUBLE))
    with pytest.raises(UserError, match="edges must be hard or antialiased, not 'soft'"):
        render(vertices, faces, colours, focal, 8, edges="soft")


@pytest.mark.parametrize("corners", [3, 4, 5, 60])
def test_the_mask_sums_to_the_area(corners):
    """Polygons moved and turned by parts of a pixel: within 0.3 of a pixel a corner that is not blunt."""
    points, faces = polygon(corners, radius=10.3)
    area = corners / 2 * 10.3**2 * math.sin(2 * math.pi / corners)
    errors, hard = [], []
    for k in range(12):
        moved = turned(points, 0.03 + 0.11 * k) + torch.tensor([16 + 0.37 * k % 1, 15.3 + 0.61 * k % 1], dtype=DOUBLE)
        mask = flat(moved, faces, 32, 33).mask
        assert mask.min() >= 0 and mask.max() <= 1
        errors.append((mask.sum() - area).item())
        hard.append((flat(moved, faces, 32, 33, "hard").mask.sum() - area).item())
    rms, rms_hard = (math.sqrt(sum(e * e for e in each) / 12) for each in (errors, hard))
    print(corners, area, rms, rms_hard)
    assert max(map(abs, errors)) < (1.2 if corners < 5 else 0.5)
    assert rms < 0.35 * rms_hard


@pytest.mark.parametrize("corners", [3, 60])
def test_derivatives_of_areas(corners):
    """By x, y and scale, of the area and of its moments, against those of the exact polygon, 96 pixels wide."""
    points, faces = polygon(corners)
    shape = corners / 2 * math.sin(2 * math.pi / corners)  # the area over the radius squared
    centres, errors = torch.arange(128, dtype=DOUBLE) + 0.5, []
    for k in range(10):
        x, y, radius = 63.6 + 0.37 * k % 1, 63.3 + 0.61 * k % 1, 48.0
        move = torch.tensor([x, y, radius], dtype=DOUBLE, requires_grad=True)
        mask = flat(turned(points, 0.1 + 0.07 * k) * move[2] + move[:2], faces, 128, 128).mask[0, 0]
        sums = [mask.sum(), (mask * centres).sum(), (mask * centres[:, None]).sum()]
        found = torch.stack([torch.autograd.grad(part, move, retain_graph=True)[0] for part in sums])
        area, growth = shape * radius**2, 2 * shape * radius
        exact = torch.tensor([[0, 0, growth], [area, 0, x * growth], [0, area, y * growth]], dtype=DOUBLE)
        scale = torch.tensor([[96, 96, growth], [area, area, x * growth], [area, area, y * growth]], dtype=DOUBLE)
        errors.append((found - exact) / scale)
    errors = torch.stack(errors)
    print(errors.abs().max(), errors.square().mean().sqrt())
    assert errors.abs().max() < 0.05 and errors.square().mean().sqrt() < 0.02


def test_a_disc_that_leaves_the_picture():
    """The derivative of the area that is left by the disc's position is the chord at the border."""
    points, faces = polygon(200, radius=12.0)
    x = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
    moved = points + torch.stack([x, torch.tensor(16.2, dtype=DOUBLE)])
    (found,) = torch.autograd.grad(flat(moved, faces, 32, 32).mask.sum(), x)
    assert abs(found.item() - 2 * math.sqrt(12.0**2 - 3.0**2)) < 1.0


def test_small_triangles_have_the_outline_of_large_ones():
    """A polygon cut into ever smaller triangles keeps its mask and its gradient with respect to position."""
    results = []
    for rings in (1, 3, 40):
        points, faces = polygon(24, rings, 10.3)
        shift = torch.tensor([16.3, 15.9], dtype=DOUBLE, requires_grad=True)
        mask = flat(points + shift, faces, 32, 32).mask
        weight = torch.linspace(0, 1, 32, dtype=DOUBLE)
        results.append((mask, torch.autograd.grad((mask * weight).sum(), shift)[0]))
    for mask, gradient in results[1:]:
        assert torch.allclose(mask, results[0][0]) and torch.allclose(gradient, results[0][1])
    assert ((results[0][0] > 0.01) & (results[0][0] < 0.99)).sum() > 30


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_sphere_has_a_smooth_outline_and_a_clean_inside(dtype):
    """Where triangles fold away, thinner than a pixel: against the mask of a picture 16 times as large."""
    polar, around = torch.meshgrid(torch.linspace(0.0, math.pi, 40), torch.linspace(0, 2 * math.pi, 81), indexing="ij")
    polar, around = polar[:, :-1].to(dtype), around[:, :-1].to(dtype)
    shape = torch.stack([polar.sin() * around.cos(), polar.cos(), polar.sin() * around.sin()], -1)
    vertices = (90 * shape + torch.tensor([3.0, 7, 1000], dtype=dtype)).reshape(1, -1, 3)
    index = torch.arange(40 * 80).reshape(40, 80)
    a, b, c, d = index[:-1], index[:-1].roll(-1, 1), index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))])
    focal, colours = torch.full((1,), 4.5, dtype=dtype), shape.reshape(1, -1, 3)
    smooth, hard = (render(vertices, faces, colours, focal, 40, edges=e) for e in ("antialiased", "hard"))
    exact = torch.nn.functional.avg_pool2d(render(vertices, faces, colours, focal, 640).mask, 16)
    assert (smooth.mask - exact).abs().max() < 0.15 and (hard.mask - exact).abs().max() > 0.4
    assert (smooth.mask - exact).abs().sum() < 0.1 * (hard.mask - exact).abs().sum()
    inside = -torch.nn.functional.max_pool2d(-hard.mask, 3, stride=1, padding=1) > 0
    assert inside.sum() > 700 and torch.equal(
        smooth.image[inside.expand(1, 3, -1, -1)], hard.image[inside.expand(1, 3, -1, -1)]
    )


def test_one_surface_before_another():
    """A white square before a grey wall: the picture follows the square, the mask is 1, the wall moves nothing."""
    square, faces = polygon(4, radius=15.0)
    wall = torch.tensor([[-40.0, -40], [80, -40], [80, 80], [-40, 80]], dtype=DOUBLE)
    faces = torch.cat([faces, torch.tensor([[5, 6, 7], [5, 7, 8]])])
    colours = torch.tensor([1.0] * 5 + [0.25] * 4, dtype=DOUBLE)[:, None]
    size, far = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True), torch.ones(9, dtype=DOUBLE)
    far[5:] = 2.0
    wall = wall.requires_grad_()
    points = torch.cat([turned(square, 0.2) * size + torch.tensor([20.3, 19.8], dtype=DOUBLE), wall])
    drawing = flat(points, faces, 40, 40, colours=colours, depth=far)
    area = 2 * 15.0**2
    assert torch.equal(drawing.mask, torch.ones_like(drawing.mask))
    assert abs((drawing.image - 0.25).sum().item() / 0.75 - area) < 0.6
    change, other = torch.autograd.grad(drawing.image.sum(), (size, wall))
    assert abs(change.item() / (0.75 * 2 * area) - 1) < 0.03
    assert other.abs().max() < 1e-9, "neither the outline of the wall, outside, nor its constant colour"


def test_what_is_hidden_changes_nothing():
    """Outlines behind a large surface of many triangles; pixels there show different faces, but of one surface."""
    front, faces = polygon(7, 5, 14.0)
    behind = torch.cat([polygon(5, radius=9.0)[0] + 16, polygon(5, radius=4.0)[0] + 20])
    more = torch.cat([faces] + [polygon(5)[1] + len(front) + 6 * k for k in range(2)])
    colours = torch.rand(len(front) + 12, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    points = torch.cat([turned(front, 0.3) + torch.tensor([16.2, 15.9], dtype=DOUBLE), behind])
    depth = torch.tensor([1.0] * len(front) + [1.5] * 6 + [2.0] * 6, dtype=DOUBLE)
    alone, both = (flat(points, f, 32, 32, colours=colours, depth=depth) for f in (faces, more))
    assert torch.equal(alone.image, both.image) and torch.equal(alone.mask, both.mask)
    assert ((alone.mask > 0.01) & (alone.mask < 0.99)).sum() > 30
    assert flat(points, more[len(faces) :], 32, 32).mask.sum() > 150, "there is something behind"


def test_gradcheck():
    """Random sums of image and mask against finite differences, by vertices, colours and focal."""
    vertices, faces, colours, focal = soup(3, 4)
    weight = torch.randn(3, 2, 4, 11, 13, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    pairs, masks = [], []

    def draw(vertices, colours, focal):
        drawing = render(vertices, faces, colours, focal, (11, 13), edges="antialiased")
        pairs.append(antialiasing._crossings(project(vertices, focal, 11, 13), faces, *drawing.fragments[::2])[:2])
        masks.append(drawing.mask)
        return (torch.cat([drawing.image, drawing.mask], 1) * weight).sum((1, 2, 3, 4))

    inputs = [tensor.requires_grad_() for tensor in (vertices, colours, focal)]
    assert torch.autograd.gradcheck(draw, inputs, eps=1e-6, atol=1e-6)
    assert len(pairs[0][0]) > 40 and ((masks[0] > 0.01) & (masks[0] < 0.99)).sum() > 20
    assert all(torch.equal(a, b) for pair in pairs for a, b in zip(pair, pairs[0], strict=True)), "no topology changed"


def test_values_stay_between_those_around_them():
    """Many small triangles, of which pixels have several edges: nothing brighter or darker than what is drawn."""
    generator = torch.Generator().manual_seed(1)
    centres = 24 * torch.rand(120, 1, 2, generator=generator, dtype=DOUBLE)
    points = (centres + 1.5 * torch.randn(120, 3, 2, generator=generator, dtype=DOUBLE)).reshape(-1, 2)
    faces, colours = torch.arange(360).reshape(-1, 3), 1 + torch.rand(360, 1, generator=generator, dtype=DOUBLE)
    depth = 1 + torch.rand(120, 1, generator=generator, dtype=DOUBLE).expand(120, 3).reshape(-1)
    drawing = flat(points, faces, 24, 24, colours=colours, depth=depth)
    assert drawing.mask.min() >= 0 and drawing.mask.max() <= 1
    assert (drawing.image >= drawing.mask - 1e-12).all() and (drawing.image <= 2 * drawing.mask + 1e-12).all()
    assert ((drawing.mask > 0.01) & (drawing.mask < 0.99)).sum() > 30


@pytest.mark.parametrize("slope", [0.0, 1e-7, 1e-3, 0.999, 1.0, 1.001])
def test_gradients_are_bounded(slope):
    """An edge that is almost along a row of pixels, or at 45 degrees, moves no pixel by more than its own way."""
    points = torch.tensor([[-20.0, 2.5 - 20 * slope], [60.0, 2.5 + 60 * slope], [-20.0, 300]]).requires_grad_()
    mask = flat(points, torch.tensor([[0, 1, 2]]), 9, 9).mask[0, 0]
    rows = torch.stack([torch.autograd.grad(p, points, retain_graph=True)[0] for p in mask.reshape(-1)])
    assert rows.isfinite().all() and rows.abs().sum((1, 2)).max() <= 2.001
    assert rows[:, :, 1].abs().sum() > 1


def test_faces_without_a_picture_end_a_surface():
    """Vertices behind the camera or not finite: nothing of theirs is drawn, values and gradients stay finite."""
    points, faces = polygon(6, 2, 9.0)
    alone = flat(points[:7] + 16.2, faces[(faces < 7).all(1)], 32, 32).mask
    for bad in (-1.0, torch.nan, torch.inf):
        camera = torch.cat([points + 0.2, torch.full_like(points[:, :1], 32.0)], -1)[None]
        camera[0, 7:, 2] = bad
        camera.requires_grad_()
        drawing = render(
            camera, faces, torch.ones(1, 13, 1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE), 32, edges="antialiased"
        )
        assert torch.allclose(drawing.mask, alone)
        (gradient,) = torch.autograd.grad(drawing.mask.square().sum(), camera)
        assert gradient[0, :7].isfinite().all() and gradient[0, 1:7].abs().sum() > 1


def test_single_pictures_and_batches_agree():
    vertices, faces, colours, focal = soup(4)
    both = render(vertices, faces.int(), colours, focal, (20, 31), edges="antialiased")
    single = render(vertices.float(), faces, colours.float(), focal.float(), (20, 31), edges="antialiased")
    assert torch.allclose(both.image.float(), single.image, atol=1e-3), "float32"
    for n in range(2):
        alone = render(vertices[n : n + 1], faces, colours[n : n + 1], focal[:1], (20, 31), edges="antialiased")
        assert torch.equal(alone.image[0], both.image[n]) and torch.equal(alone.mask[0], both.mask[n])
    none = render(vertices, faces[:0], colours, focal, 5, edges="antialiased")
    assert none.image.shape == (2, 3, 5, 5) and not none.image.any() and not none.mask.any()
    assert render(vertices, faces, colours, focal, 1, edges="antialiased").mask.shape == (2, 1, 1, 1)


def test_half_edges():
    """Borders, neighbours of equal and of different winding, three faces at one edge, a face without area."""
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [1, 0, 4], [0, 1, 5], [6, 7, 8], [6, 7, 9], [8, 8, 6]])
    mesh = half_edges(faces)
    assert mesh.begin.tolist() == faces.reshape(-1).tolist()
    opposite = dict(enumerate(mesh.opposite.tolist()))
    assert opposite.pop(1) == 5 and opposite.pop(5) == 1  # 1 - 2
    assert [opposite.pop(k) for k in (0, 6, 9)] == [-2, -2, -2]  # 0 - 1
    assert opposite.pop(12) == 15 and opposite.pop(15) == 12  # 6 - 7
    assert set(opposite.values()) == {-1}
    edges = {tuple(sorted(pair)): sign for *pair, sign in zip(*mesh.beside.tolist(), mesh.sign.tolist(), strict=True)}
    assert edges.pop((0, 1)) == 1 and edges.pop((4, 5)) == -1
    assert set(edges.values()) == {0} and all(one == other for one, other in edges)
    assert len(mesh.edge) == 2 + list(opposite.values()).count(-1) - 3, "each once, but for those of the last face"


def test_half_edges_are_kept_while_the_faces_are():
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    gc.collect()
    mesh, count = half_edges(faces), len(antialiasing._known)
    assert half_edges(faces) is mesh
    faces[1] = torch.tensor([4, 3, 2])
    assert (half_edges(faces).opposite == -1).all(), "another mesh since"
    del faces, mesh
    gc.collect()
    assert len(antialiasing._known) == count - 1


def test_a_pose_is_recovered_from_a_mask(toy_model):
    """Translation, depth, roll and yaw from an outline alone, drawn another way: a hard picture, reduced 8 times."""
    size, steps = 48, 120
    truth = FaceParameters.neutral(toy_model)
    degrees = torch.tensor([[0.0, 20.0, -8.0]])
    middle = truth.translation * torch.tensor([1.0, 1.0, 1.6])
    truth = truth.replace(rotation=euler_to_matrix(degrees), translation=middle)
    target = torch.nn.functional.avg_pool2d(render_face(toy_model, truth, 8 * size).mask, 8)
    error = torch.tensor([[12.0, -10.0, 80.0, 7.0, 8.0]])  # x, y, z in mm, roll and yaw in degrees
    unit = torch.tensor([10.0, 10.0, 100.0, 5.0, 5.0])
    step = torch.zeros(1, 5, requires_grad=True)

    def mask(edges):
        now = error + step * unit
        angles = degrees + torch.stack([torch.zeros(1), now[:, 4], now[:, 3]], -1)
        guess = truth.replace(rotation=euler_to_matrix(angles), translation=middle + now[:, :3])
        return render_face(toy_model, guess, size, shading=False, albedo=1.0, edges=edges).mask

    assert not mask("hard").requires_grad, "a hard mask has no gradient"
    optimizer = torch.optim.Adam([step], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        (mask("antialiased") - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    left = (error + step * unit).detach().abs()
    print(left)
    assert (left[:, :4] < error[:, :4].abs() / 10).all() and left[0, 4] < error[0, 4] / 5


def test_the_hard_picture_has_no_gradient_at_the_outline_either(toy_model):
    """Of a face of one colour, whose inside says nothing: only anti-aliased edges tell where it lies."""
    found = {}
    for edges in ("hard", "antialiased"):
        translation = FaceParameters.neutral(toy_model).translation.clone().requires_grad_()
        parameters = FaceParameters.neutral(toy_model).replace(translation=translation)
        image = render_face(toy_model, parameters, 40, shading=False, albedo=0.5, edges=edges).image
        (found[edges],) = torch.autograd.grad(image[..., :20].sum(), translation)
    assert found["hard"].abs().max() < 1e-5 < 1e-2 < found["antialiased"].abs().max()
