"""Steps of feedback: their derivative, where perfect offsets lead, what holds them back, and the exported solution."""

import pytest
import torch
from toy_fits import faces
from toy_model import with_ibug

from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.camera import flip, rotation_vector_to_matrix
from mlanet_lib.network import MLANet, feedback
from mlanet_lib.network.feedback import Feedback
from mlanet_lib.parameters import FaceParameters

SIZES = (3, 3, 5, 4)  # a turn, a frame, the toy model's identity and expression


def numbers(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


@pytest.fixture
def step(toy_model):
    """A step whose head says something of what it sees, in double precision."""
    torch.manual_seed(0)
    step = Feedback(toy_model, (4, 4))
    torch.nn.init.normal_(step.say, std=0.03)
    return step.double()


@pytest.fixture
def maps():
    return [numbers(6, feedback.READ, side, side) for side in (16, 8)]


@pytest.fixture
def some(toy_model):
    return faces(toy_model, 6).map(torch.Tensor.double)


def drawn(model, parameters):
    """The points of feedback: the jaw as 3DDFA's labels have it, the rest as iBUG's."""
    shape = SparseShape(model, 0)
    parameters = parameters.map(torch.Tensor.float)
    turned = shape.turned(parameters)
    jaw, rest = (shape.landmarks(turned, parameters, name) for name in ("3ddfa", "ibug"))
    return torch.cat([jaw[:, :17], rest[:, 17:]], 1)


def always(step, monkeypatch, goal, sure=1.0):
    """Let the step see `goal`, wherever the points were drawn."""
    weights = torch.as_tensor(sure, dtype=goal.dtype).expand(goal.shape[:2])
    monkeypatch.setattr(step, "_look", lambda maps, places, rotation: (goal - places, weights))


def test_points_are_drawn_by_the_two_definitions(toy_model, maps):
    model = with_ibug(toy_model)
    some = faces(model, 6)
    _, places, _ = Feedback(model, (4, 4))(maps, some)
    assert torch.allclose(places, drawn(model, some), atol=1e-5)
    assert (places - drawn(toy_model, some))[:, 17:].norm(dim=2).mean() > 0.02


def moved(face: FaceParameters, change: torch.Tensor) -> FaceParameters:
    turn, place, identity, expression = change.split(SIZES, 1)
    face = face.replace(identity=face.identity + identity, expression=face.expression + expression)
    return face.moved(flip(turn), place)


def test_the_derivative_is_that_of_the_drawn_points(step, some, maps):
    nowhere = [torch.zeros_like(each) for each in maps]
    turned = feedback.to_camera(
        step.mean + (torch.cat([some.identity, some.expression], 1) @ step.basis.flatten(0, 1).T).unflatten(1, (68, 3)),
        some.rotation,
        torch.zeros_like(some.translation),
    )
    found, little = step._derivative(turned, some), 1e-5
    assert found.shape == (6, 68, 2, sum(SIZES))
    for column in range(sum(SIZES)):
        change = torch.zeros(6, sum(SIZES), dtype=torch.float64)
        change[:, column] = little
        there, back = (step(nowhere, moved(some, sign * change))[1] for sign in (1, -1))
        expected = (there - back) / (2 * little)
        assert (found[..., column] - expected).abs().max() < 1e-6 * expected.abs().max(), column


def test_perfect_offsets_lead_to_the_goal(step, toy_model, some, maps, monkeypatch):
    start = FaceParameters.neutral(toy_model, 6).map(torch.Tensor.double)
    start = start.replace(rotation=some.rotation @ rotation_vector_to_matrix(0.2 * torch.ones(6, 3).double()))
    goal = step(maps, some)[1].detach()
    always(step, monkeypatch, goal)
    step.log_ridge.data.fill_(-25.0)
    errors, face = [], start
    for _ in range(5):
        face, places, seen = step(maps, face)
        errors.append((places - goal).norm(dim=2).mean().item())
        assert torch.allclose(seen, goal)
    assert errors[0] > 0.02 and errors[1] < 0.3 * errors[0] and errors[4] < 1e-4 * errors[0]
    assert torch.allclose(face.rotation.mT @ face.rotation, torch.eye(3).double().expand(6, 3, 3), atol=1e-6)


def test_maps_are_read_from_a_patch_around_each_point(toy_model):
    """An interpolated map is a linear layer of the levels' interpolated values around the point, a cell apart."""
    step, side = Feedback(toy_model, (4,), patch=3), 16
    level = numbers(1, 4, side, side)
    places = 0.3 + 0.4 * torch.rand(1, 68, 1, 2, generator=torch.Generator().manual_seed(0))

    def at(grid, points):
        return torch.nn.functional.grid_sample(grid, 2 * points - 1, align_corners=False)[..., 0]

    expected = step.read[0].bias[None, :, None]
    for row in range(3):
        for column in range(3):
            beside = places + torch.tensor([column - 1.0, row - 1.0]) / side
            expected = expected + step.read[0].weight[:, :, row, column] @ at(level, beside)
    (found,) = step.maps([level])
    assert torch.allclose(at(found, places), expected, atol=1e-5)


def test_a_large_ridge_keeps_the_first_estimate(step, toy_model, some, maps, monkeypatch):
    always(step, monkeypatch, step(maps, some)[1].detach() + 0.1)
    moved = step(maps, some)[0]
    assert (moved.translation - some.translation).norm(dim=1).min() > 10
    step.log_ridge.data.fill_(30.0)
    for name, value in step(maps, some)[0].as_tensors().items():
        assert torch.allclose(value, getattr(some, name), rtol=1e-6, atol=1e-6), name
    step.log_ridge.data[:6] = -20.0  # the pose alone is free
    moved = step(maps, some)[0]
    assert torch.allclose(moved.identity, some.identity, atol=1e-6)
    assert (moved.translation - some.translation).norm(dim=1).min() > 10


def test_points_that_are_not_sure_do_not_pull(step, some, maps, monkeypatch):
    places = step(maps, some)[1].detach()
    wrong = places.clone()
    wrong[:, :17] += 0.2
    sure = torch.ones(68)
    sure[:17] = 1e-12
    always(step, monkeypatch, wrong, sure)
    held = step(maps, some)[0]
    assert torch.allclose(held.translation, some.translation, atol=1e-3)
    always(step, monkeypatch, wrong)
    assert (step(maps, some)[0].translation - some.translation).norm(dim=1).min() > 1


def test_it_reads_the_features_where_the_points_are(step, some):
    maps = [numbers(6, feedback.READ, 32, 32, dtype=torch.float64)]
    before, places, _ = step(maps, some)
    centres = (torch.arange(32) + 0.5) / 32
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).double()
    away = (grid[None, :, :, None] - places[:, None, None]).abs().amax(4).amin(3) > 1 / 32
    assert 100 < away[0].sum() < 900
    far, near = ([torch.where(mask[:, None], 9.0, maps[0])] for mask in (away, ~away))
    for name, value in before.as_tensors().items():
        assert torch.allclose(getattr(step(far, some)[0], name), value, rtol=1e-9), name
    assert not torch.allclose(step(near, some)[0].identity, before.identity, rtol=1e-3)


def test_the_solution_has_the_right_gradient():
    root, right = numbers(3, 6, 6, dtype=torch.float64), numbers(3, 6, 1, seed=1, dtype=torch.float64)

    def solve(root, right):
        return feedback._PositiveSolve.apply(root @ root.mT + torch.eye(6), right)

    matrix = root @ root.mT + torch.eye(6)
    assert torch.allclose(matrix @ solve(root, right), right)
    assert torch.autograd.gradcheck(solve, (root.requires_grad_(), right.requires_grad_()))


def test_what_single_precision_cannot_factor_is_solved_with_a_stiffer_diagonal():
    direction = numbers(1, 20, 1)
    hopeless = 1e9 * direction @ direction.mT + 1e-3 * torch.eye(20)
    good = torch.eye(20)[None] * 2
    assert torch.linalg.cholesky_ex(hopeless)[1].all()
    right = torch.cat([1e9 * direction, direction])
    found = feedback._PositiveSolve.apply(torch.cat([hopeless, good]), right)
    assert torch.allclose(found[1], direction[0] / 2, rtol=1e-6, atol=1e-6)  # the others stay as they were
    assert found.isfinite().all()
    assert torch.allclose(direction.mT @ found[0], torch.ones(1), rtol=0.01)
    nothing = feedback._PositiveSolve.apply(hopeless * torch.nan, right[:1])
    assert not nothing.isfinite().any()  # the loss will say so


def test_no_gradient_flows_through_where_it_looked(step, some, maps):
    some = some.map(lambda tensor: tensor.clone().requires_grad_())
    maps = [each.requires_grad_() for each in maps]
    moved, places, seen = step(maps, some)
    inputs = [*some.as_tensors().values(), *maps]
    felt = torch.autograd.grad(seen.sum(), inputs, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in felt[:-2]) and all(gradient.any() for gradient in felt[-2:])
    inputs = [some.identity, some.rotation, some.translation]
    felt = torch.autograd.grad(moved.identity.sum(), inputs, retain_graph=True, allow_unused=True)
    assert torch.equal(felt[0], torch.ones_like(some.identity)) and felt[1] is None and felt[2] is None
    assert all(gradient.any() for gradient in torch.autograd.grad(places.square().sum(), inputs, retain_graph=True))
    weights = [weight for name, weight in step.named_parameters() if not name.startswith("read.")]
    felt = torch.autograd.grad(moved.identity.square().sum() + moved.translation.square().sum(), weights)
    assert all(gradient.any() for gradient in felt)


@pytest.mark.parametrize("size", [1, 15, feedback.LEAF, feedback.LEAF + 1, 159])
@pytest.mark.parametrize("decades", [0, 3])
def test_the_exported_solution_is_as_exact_as_the_other(size, decades):
    """As in a step: 136 equations of very different weight, and a ridge of 1."""
    rows = (
        numbers(2, 136, size) * torch.logspace(0, decades, size)[torch.randperm(size, generator=torch.manual_seed(0))]
    )
    matrix, right = rows.mT @ rows + torch.eye(size), rows.mT @ (0.01 * numbers(2, 136, 1, seed=1))
    exact = torch.linalg.solve(matrix.double(), right.double())
    errors = [
        float((solve(matrix, right) - exact).norm() / exact.norm())
        for solve in (feedback._by_products, feedback._PositiveSolve.apply)
    ]
    assert errors[0] < 2 * errors[1] + 1e-5


def test_an_exported_step_gives_what_the_step_gives(toy_model, maps):
    torch.manual_seed(0)
    step, some = Feedback(toy_model, (4, 4)).eval(), faces(toy_model, 6)
    torch.nn.init.normal_(step.say, std=0.03)

    class AsTensors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.step = step

        def forward(self, maps, tensors):
            return self.step(maps, FaceParameters.from_tensors(tensors))[0].as_tensors()

    with torch.no_grad():
        graph = torch.export.export(AsTensors(), (maps, some.as_tensors()), strict=False)
        found, expected = graph.module()(maps, some.as_tensors()), step(maps, some)[0]
    names = {node.target.__name__ for node in graph.graph.nodes if hasattr(node.target, "__name__")}
    assert not any("cholesky" in name for name in names)  # which ONNX does not have
    for name, value in expected.as_tensors().items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-3), name
    assert (expected.identity - some.identity).abs().max() > 0.05


def fed_network(model, **options):
    torch.manual_seed(0)
    network = MLANet(model, backbone="mobilenetv3_small_050", image_size=64, **options)
    for step in network.feedback:
        torch.nn.init.normal_(step.say, std=0.03)
    return network, torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_onnx_file_of_a_network_with_feedback_answers_alike(toy_model, tmp_path):
    import onnxruntime

    from mlanet_lib.predictor.encoder_export import export_encoder

    network, images = fed_network(toy_model, levels=(3, 4), feedback=2)
    export_encoder(network.eval(), toy_model, tmp_path / "fed.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "fed.onnx", providers=["CPUExecutionProvider"])
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": images.numpy()}),
            strict=True,
        )
    )
    with torch.no_grad():
        expected, first = network.encode(images), network.face_parameters(network.read(images)[0])
    for name, value in expected.as_tensors().items():
        assert torch.allclose(torch.from_numpy(found[name]), value, rtol=1e-4, atol=1e-3), name
    assert (expected.identity - first.identity).abs().max() > 0.05  # feedback moved it


def test_each_step_begins_where_the_one_before_it_ended(toy_model):
    network, images = fed_network(toy_model, feedback=2)
    outputs = network.train()(images)
    assert outputs["early"].shape == outputs["points"].shape == (4, 2, 68, 2)
    network.eval()
    found = network(images)
    assert set(found) == set(FaceParameters.names())
    raw, maps = network.read(images)
    face = network.face_parameters(raw)
    network.train()
    early = network.finish(raw, maps)["early"]
    network.eval()
    assert torch.allclose(early[:, 0], drawn(toy_model, face), atol=1e-5)
    face = network.feedback[0](maps[:2], face)[0]
    assert torch.allclose(early[:, 1], drawn(toy_model, face), atol=1e-5)
    face = network.feedback[1](maps[2:], face)[0]
    for name, value in found.items():
        assert torch.allclose(value, getattr(face, name), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    ("levels", "feedback", "sides"),
    [((1, 2, 3, 4), 0, []), ((1, 2, 3, 4), 1, [16, 8]), ((1, 2, 3, 4), 2, [8, 4, 16, 8]), ((4,), 1, [2])],
)
def test_each_step_reads_finer_levels_and_all_that_is_read(levels, feedback, sides, toy_model):
    network, images = fed_network(toy_model, levels=levels, feedback=feedback)
    network.eval()
    raw, maps = network.read(images)
    assert [each.shape[-1] for each in maps] == sides
    outputs, expected = network.finish(raw, maps), network(images)
    assert all(torch.allclose(outputs[name], value, atol=1e-5) for name, value in expected.items())
    for number in range(len(maps)):
        spoiled = [each + numbers(*each.shape) if k == number else each for k, each in enumerate(maps)]
        assert not torch.allclose(network.finish(raw, spoiled)["identity"], expected["identity"], atol=1e-4), number
