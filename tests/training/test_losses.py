"""Losses against numbers worked out by hand, their robustness, and which sample feels which."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from toy_model import with_ibug

from mlanet_lib.face_model.front import front_faces
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.lighting import ambient, irradiance
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import covered_by, render_face
from mlanet_lib.training import losses
from mlanet_lib.training.data import Batch
from mlanet_lib.training.losses import LossWeights
from mlanet_lib.training.terms import (
    Comparison,
    drawn_rows,
    judged_rows,
    present_terms,
    semi_supervised_terms,
    total,
)

CONFIG = SimpleNamespace(weights=LossWeights(), hidden_weight=0.5, photometric_batch=8, photometric_size=24)


def some_parameters(model, batch: int, seed: int = 0) -> FaceParameters:
    generator = torch.Generator().manual_seed(seed)
    neutral = FaceParameters.neutral(model, batch)
    degrees = torch.randn(batch, 3, generator=generator) * 20
    return neutral.replace(
        identity=torch.randn(batch, model.n_identity, generator=generator),
        expression=torch.rand(batch, model.n_expression, generator=generator),
        albedo=torch.randn(batch, model.n_albedo, generator=generator),
        rotation=euler_to_matrix(degrees),
        translation=neutral.translation + torch.randn(batch, 3, generator=generator) * 20,
    )


def some_batch(model, truth: FaceParameters, kind: list[int], size: int = 32) -> Batch:
    shape = SparseShape(model, 20)
    with torch.no_grad():
        images = render_face(model, truth, size).image
    landmarks = shape.landmarks(shape.turned(truth), truth)
    ones, known = torch.ones(len(kind), 68), torch.ones(len(kind), model.n_identity + model.n_expression)
    kind = torch.tensor(kind)
    lit, nobody = kind == 0, torch.full_like(kind, -1)
    return Batch(
        images, images, landmarks, ones, ones, truth, known, kind, lit, lit.clone(), torch.zeros_like(kind), nobody
    )


def comparison(guess, batch: Batch, shape, model, config=CONFIG, drawn=None, seen=None) -> Comparison:
    """drawn: None for the batch's own; seen: what steps of feedback saw, None for two that saw the true points."""
    seen = batch.landmarks[:, None].expand(-1, 2, -1, -1) if seen is None else seen
    drawn = drawn_rows(batch.lit, config) if drawn is None else drawn
    return Comparison(guess, {"early": seen, "points": seen}, batch, drawn, shape, model, front_faces(model), config)


def all_terms(*arguments) -> dict[str, torch.Tensor]:
    """The terms with their weighted sum."""
    terms, amounts = semi_supervised_terms(comparison(*arguments))
    assert terms.keys() == amounts.keys()
    return total(terms, CONFIG.weights)


def test_coefficients_are_a_mean_square():
    assert losses.coefficient_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == 2.5


@pytest.mark.parametrize("degrees", [0.0, 1.0, 30.0, 90.0, 180.0])
def test_rotation_is_one_minus_cosine(degrees):
    turn = euler_to_matrix(torch.tensor([[0.0, degrees, 0.0]], dtype=torch.float64))
    base = euler_to_matrix(torch.tensor([[10.0, -40.0, 5.0]], dtype=torch.float64))
    expected = 1 - torch.cos(torch.deg2rad(torch.tensor(degrees, dtype=torch.float64)))
    assert torch.isclose(losses.rotation_loss(turn @ base, base), expected, atol=1e-12)


def test_translation_ignores_what_the_picture_does_not_show(toy_model):
    here = some_parameters(toy_model, 3)
    further = here.replace(translation=here.translation * torch.tensor([1.0, 1, 2]), focal=here.focal * 2)
    assert losses.translation_loss(further, here) < 1e-10
    shifted = here.replace(translation=here.translation + torch.tensor([0.1, 0, 0]) * here.translation[:, 2:] / 9)
    assert torch.isclose(losses.translation_loss(shifted, here), torch.tensor(0.01), rtol=1e-4)


def test_lighting_is_the_mean_square_irradiance_over_the_sphere():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 1, 9, 3, generator=generator, dtype=torch.float64)
    normals = torch.nn.functional.normalize(torch.randn(1, 400_000, 3, generator=generator, dtype=torch.float64), dim=2)
    sampled = (irradiance(normals, one) - irradiance(normals, other)).square().mean()
    assert torch.isclose(losses.lighting_loss(one, other), sampled, rtol=0.01)


def test_vertices_are_a_mean_distance_with_a_gradient_at_zero():
    truth = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    loss = losses.vertex_loss(predicted, truth)
    loss.backward()
    assert torch.isclose(loss, torch.tensor(2.5)) and predicted.grad.isfinite().all()


def test_landmarks_are_quadratic_near_and_linear_far_and_weighted():
    truth, ones = torch.zeros(1, 68, 2), torch.ones(1, 68)
    near, far = torch.zeros(1, 68, 2), torch.zeros(1, 68, 2)
    near[..., 0], far[..., 1] = 1e-4, 1.0
    assert torch.isclose(losses.landmark_loss(near, truth, ones), torch.tensor(1e-8 / 0.01), rtol=0.02)
    assert torch.isclose(losses.landmark_loss(far, truth, ones), torch.tensor(0.995), rtol=1e-3)
    half = torch.zeros(1, 68, 2)
    half[:, :34, 1] = 1.0
    hidden = ones.clone()
    hidden[:, :34] = 0.5
    assert torch.isclose(losses.landmark_loss(half, truth, hidden), torch.tensor(0.995 / 3), rtol=1e-3)
    assert losses.landmark_loss(far, truth, ones * 0) == 0


def test_openings_are_distances_across_lips_and_lids_whatever_the_place():
    truth, ones = torch.rand(2, 68, 2), torch.ones(2, 68)
    assert losses.opening_loss(truth + torch.tensor([0.3, -0.1]), truth, ones) < 1e-6  # moved as a whole
    opened = truth.clone()
    opened[:, 66, 1] += 0.5
    one_of_nine = losses.opening_loss(opened, truth, ones)
    assert torch.isclose(one_of_nine, torch.tensor((0.5 - 0.003) / 9), rtol=1e-3)
    hidden = ones.clone()
    hidden[:, 62] = 0.0  # the other end
    assert losses.opening_loss(opened, truth, hidden) < 1e-6
    assert losses.opening_loss(opened, truth, ones * 0) == 0


def test_photometric_looks_inside_the_mask_and_lets_occluders_go():
    image, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    outside = image.clone()
    outside[..., 2:] = 1.0
    assert losses.photometric_loss(outside, image, mask) < 2e-3
    slight, strong = image + 0.03, image + 0.6
    small, large = (losses.photometric_loss(x, image, mask) for x in (slight, strong))
    r = torch.tensor([0.03, 0.6]) * 3**0.5
    assert torch.allclose(torch.stack([small, large]), r / (1 + r / 0.3), rtol=0.01)
    values = torch.tensor([0.03, 0.6], requires_grad=True)
    sum(losses.photometric_loss(image + v, image, mask) for v in values).backward()
    assert values.grad[1] < 0.1 * values.grad[0]


def test_light_prior_likes_white_light():
    white = ambient(2) * 0.4
    assert losses.light_prior_loss(white) < 1e-12
    assert losses.light_prior_loss(white * torch.tensor([1.0, 0.8, 0.7])) > 1e-3


def test_sparse_shape_is_the_face_model_at_some_points(toy_model):
    parameters = some_parameters(toy_model, 4)
    shape = SparseShape(toy_model, 30)
    vertices = toy_model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(vertices, parameters.rotation, parameters.translation)
    turned = shape.turned(parameters)
    assert turned.shape == (4, 98, 3)
    points = torch.cat([toy_model.landmark_index[:, 0], toy_model.subset_index(30)])
    assert torch.allclose(turned + parameters.translation[:, None], camera[:, points], atol=1e-3)
    drawn = project(toy_model.landmarks(camera), parameters.focal, 1, 1)[..., :2]
    assert torch.allclose(shape.landmarks(turned, parameters), drawn, atol=1e-5)


def test_the_truth_costs_nothing_but_its_priors(toy_model):
    truth = some_parameters(toy_model, 3)
    terms = all_terms(truth, some_batch(toy_model, truth, [0, 1, 2], 24), SparseShape(toy_model, 20), toy_model)
    names = {field.name for field in dataclasses.fields(LossWeights)} - {"same_person"}  # whose weight is 0
    assert set(terms) == names | {"total"}
    for name in names - {name for name in names if name.startswith("prior")}:
        assert terms[name] < 2e-3, name
    weighted = sum(getattr(CONFIG.weights, name) * terms[name] for name in names)
    assert torch.isclose(terms["total"], weighted)


@pytest.mark.parametrize(
    ("kind", "present", "absent"),
    [
        (0, {"identity", "vertices", "landmarks"}, {"photometric", "prior_identity"}),
        (1, {"landmarks", "photometric", "prior_identity"}, {"identity", "vertices"}),
        (2, {"photometric", "prior_light"}, {"identity", "landmarks", "vertices"}),
    ],
)
def test_each_kind_of_sample_has_its_losses_and_its_gradients(kind, present, absent, toy_model):
    truth, guess = some_parameters(toy_model, 2), some_parameters(toy_model, 2, seed=1)
    guess = guess.replace(lighting=guess.lighting * 0.8).map(lambda tensor: tensor.clone().requires_grad_())
    shape = SparseShape(toy_model, 20)
    terms = all_terms(guess, some_batch(toy_model, truth, [kind] * 2), shape, toy_model)
    assert present <= set(terms) and not absent & set(terms)
    terms["total"].backward()
    felt = {name for name, value in guess.as_tensors().items() if value.grad is not None and value.grad.any()}
    assert {"identity", "expression", "rotation", "translation"} <= felt
    assert ("albedo" in felt) and ("lighting" in felt)


def test_labels_of_rows_without_labels_are_never_read(toy_model):
    truth, guess = some_parameters(toy_model, 3), some_parameters(toy_model, 3, seed=1)
    shape, batch = SparseShape(toy_model, 20), some_batch(toy_model, truth, [0, 1, 2])
    before = all_terms(guess, batch, shape, toy_model)
    spoiled = truth.map(lambda tensor: torch.cat([tensor[:1], tensor[1:] * 0 + 77]))
    landmarks = torch.cat([batch.landmarks[:2], batch.landmarks[2:] + 5])
    after = all_terms(
        guess, dataclasses.replace(batch, parameters=spoiled, landmarks=landmarks), shape, toy_model, CONFIG
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_labelled_row_without_light_is_judged_by_its_picture_too(toy_model):
    truth, guess = some_parameters(toy_model, 2), some_parameters(toy_model, 2, seed=1)
    shape, batch = SparseShape(toy_model, 20), some_batch(toy_model, truth, [0, 0])
    dark = dataclasses.replace(batch, lit=torch.tensor([False, True]))
    terms = all_terms(guess, dark, shape, toy_model)
    assert {"identity", "albedo", "photometric", "prior_albedo"} <= set(terms)
    one = all_terms(guess[1], some_batch(toy_model, truth[1], [0]), shape, toy_model)
    assert torch.isclose(terms["albedo"], one["albedo"]) and torch.isclose(terms["lighting"], one["lighting"])
    none = all_terms(guess, dataclasses.replace(batch, lit=torch.zeros(2, dtype=torch.bool)), shape, toy_model)
    assert "albedo" not in none and "lighting" not in none


def test_a_point_without_confidence_counts_nothing(toy_model):
    truth, guess = some_parameters(toy_model, 2), some_parameters(toy_model, 2, seed=1)
    shape, batch = SparseShape(toy_model, 20), some_batch(toy_model, truth, [1, 1])
    confidence = torch.ones(2, 68)
    confidence[:, :17] = 0
    moved = batch.landmarks.clone()
    moved[:, :17] += 0.3
    unsure = dataclasses.replace(batch, landmarks=moved, confidence=confidence)
    terms = all_terms(guess, unsure, shape, toy_model)
    found = shape.landmarks(shape.turned(guess), guess)
    expected = losses.landmark_loss(found[:, 17:], batch.landmarks[:, 17:], torch.ones(2, 51))
    assert torch.isclose(terms["landmarks"], expected)


def test_a_term_without_a_weight_is_refused():
    with pytest.raises(KeyError):
        total({"identitty": torch.tensor(1.0)}, LossWeights())


@pytest.mark.parametrize("unlit", [(), (1, 4)])
def test_amounts_put_the_terms_of_parts_together(unlit, toy_model):
    """Weighted by their amounts, the terms of any two parts of a batch are those of the whole."""
    kind = [0, 0, 1, 2, 0, 1, 2]
    truth, guess = some_parameters(toy_model, 7), some_parameters(toy_model, 7, seed=1)
    shape, batch = SparseShape(toy_model, 20), some_batch(toy_model, truth, kind)
    batch.lit[list(unlit)] = False
    batch.visible = torch.rand(7, 68, generator=torch.Generator().manual_seed(2))
    config = SimpleNamespace(**vars(CONFIG) | {"photometric_batch": 3})
    batch.shaped[0] = False
    said = torch.randn(7, 2, 68, 2, generator=torch.Generator().manual_seed(3))
    whole, _ = semi_supervised_terms(comparison(guess, batch, shape, toy_model, config, seen=said))
    assert {"early", "points", "vertices"} <= set(whole)
    drawn = drawn_rows(batch.lit, config)
    assert drawn.tolist() == (
        [False, False, True, True, False, True, False] if not unlit else [False, True, True, True, False, False, False]
    )
    sums, counts = dict.fromkeys(whole, 0.0), dict.fromkeys(whole, 0.0)
    for rows in (torch.tensor([0, 2, 3, 6]), torch.tensor([1, 4, 5])):
        part = {name: value[rows] for name, value in vars(batch).items()}
        arguments = (guess[rows], Batch(**part), shape, toy_model, config, drawn[rows], said[rows])
        terms, amounts = semi_supervised_terms(comparison(*arguments))
        for name, amount in amounts.items():
            amount = float(amount.sum()) if isinstance(amount, torch.Tensor) else amount
            sums[name] += float(terms[name]) * amount
            counts[name] += amount
    for name, value in whole.items():
        assert sums[name] / counts[name] == pytest.approx(float(value), rel=1e-5), name


def test_what_is_not_drawn(toy_model):
    lit = torch.tensor([True, False, False, True, False])
    assert drawn_rows(lit, CONFIG).tolist() == (~lit).tolist()
    for change in ({"photometric_batch": 0}, {"weights": LossWeights(photometric=0.0)}):
        assert not drawn_rows(lit, SimpleNamespace(**vars(CONFIG) | change)).any()


def test_labels_are_compared_with_the_points_of_their_own_definition(toy_model):
    model = with_ibug(toy_model)
    truth, guess = some_parameters(model, 4), some_parameters(model, 4, seed=1)
    shape, sets = SparseShape(model, 20), torch.tensor([0, 1, 1, 0])
    turned = shape.turned(truth)
    vertices = model.vertices(truth.identity, truth.expression)
    for labels in ("3ddfa", "ibug"):
        camera = to_camera(model.landmarks(vertices, labels), truth.rotation, truth.translation)
        drawn = project(camera, truth.focal, 1, 1)[..., :2]
        assert torch.allclose(shape.landmarks(turned, truth, labels), drawn, atol=1e-5)
    own, ibug = shape.landmarks(turned, truth), shape.landmarks(turned, truth, "ibug")
    assert (own - ibug).norm(dim=2).mean() > 0.02
    mixed = shape.landmarks(turned, truth, sets)
    assert torch.equal(mixed, torch.stack([own[0], ibug[1], ibug[2], own[3]]))
    camera = to_camera(vertices[:, model.subset_index(20)], truth.rotation, torch.zeros(4, 3))
    assert torch.allclose(shape.vertices(turned), camera, atol=1e-3)

    batch = some_batch(model, truth, [0, 1, 0, 1])
    labelled = dataclasses.replace(batch, landmarks=mixed, points_set=sets)
    terms = all_terms(truth, labelled, shape, model)
    assert max(terms[name] for name in ("landmarks", "openings", "vertices")) < 1e-4
    assert all_terms(truth, dataclasses.replace(labelled, points_set=1 - sets), shape, model)["landmarks"] > 1e-3
    terms = all_terms(guess, labelled, shape, model)
    found = shape.landmarks(shape.turned(guess), guess, sets)
    assert torch.isclose(terms["landmarks"], losses.landmark_loss(found, mixed, torch.ones(4, 68)))


def test_points_of_feedback_are_judged_where_the_labels_have_them(toy_model):
    """The jaw by 3DDFA's definition, the rest by iBUG's: rows of one definition tell a part, labelled ones of 3DDFA's,
    whose parameters say where the face is, all."""
    model = with_ibug(toy_model)
    truth, sets, kind = some_parameters(model, 5), torch.tensor([0, 0, 1, 1, 0]), [0, 1, 0, 1, 2]
    shape = SparseShape(model, 20)
    turned = shape.turned(truth)
    own, ibug = shape.landmarks(turned, truth), shape.landmarks(turned, truth, "ibug")
    marks = torch.where((sets == 0)[:, None, None], own, ibug)
    batch = dataclasses.replace(some_batch(model, truth, kind), points_set=sets, landmarks=marks)
    right = torch.cat([own[:, :17], ibug[:, 17:]], 1)
    terms, amounts = semi_supervised_terms(comparison(truth, batch, shape, model, seen=right[:, None]))
    assert terms["points"] < 1e-6 and terms["early"] < 1e-6
    assert amounts["points"].sum(1).tolist() == [68, 17, 51, 51]
    wrong = right.clone()
    wrong[1, 17:], wrong[2:4, :17], wrong[4] = 9.0, 9.0, 9.0  # what nobody told
    terms, _ = semi_supervised_terms(comparison(truth, batch, shape, model, seen=wrong[:, None]))
    assert terms["points"] < 1e-6
    wrong[0, 30] += 0.5
    terms, _ = semi_supervised_terms(comparison(truth, batch, shape, model, seen=wrong[:, None]))
    assert torch.isclose(terms["points"], torch.tensor((0.5 * 2**0.5 - 0.005) / 187), rtol=1e-3)


def test_steps_of_feedback_count_alike(toy_model):
    truth = some_parameters(toy_model, 2)
    batch, shape = some_batch(toy_model, truth, [0, 1]), SparseShape(toy_model, 20)
    seen = batch.landmarks[:, None].repeat(1, 3, 1, 1)
    seen[:, 2, :, 0] += 0.3
    terms, _ = semi_supervised_terms(comparison(truth, batch, shape, toy_model, seen=seen))
    assert torch.isclose(terms["early"], torch.tensor(0.295 / 3), rtol=1e-3)


def test_without_feedback_there_are_no_terms_of_it(toy_model):
    truth = some_parameters(toy_model, 2)
    batch, shape = some_batch(toy_model, truth, [0, 1]), SparseShape(toy_model, 20)
    masks = judged_rows(batch.kind, batch.lit, batch.shaped, torch.zeros(2, dtype=torch.bool))
    with_it, without = (
        {term.name for term in present_terms(masks, CONFIG, outputs)} for outputs in (("early", "points"), ())
    )
    assert with_it - without == {"early", "points"} and without < with_it
    front = front_faces(toy_model)
    seen = Comparison(truth, truth.as_tensors(), batch, masks["drawn"], shape, toy_model, front, CONFIG)
    assert set(semi_supervised_terms(seen)[0]) == without


def test_photos_are_compared_at_the_front_alone(toy_model):
    """What lies beyond it, drawn or not, can be anything."""
    truth = some_parameters(toy_model, 2).replace(rotation=torch.eye(3).expand(2, 3, 3))
    batch, shape = some_batch(toy_model, truth, [2, 2], size=CONFIG.photometric_size), SparseShape(toy_model, 20)
    fragments = render_face(toy_model, truth, CONFIG.photometric_size).fragments
    front = covered_by(fragments, front_faces(toy_model))
    assert front.any() and (~front & (fragments.face_index >= 0)[:, None]).any()
    losses_of = []
    for place in (~front, front):
        batch.target = torch.where(place, 1 - batch.images, batch.images)
        terms, amounts = semi_supervised_terms(comparison(truth, batch, shape, toy_model))
        losses_of.append(float(terms["photometric"]))
        assert torch.equal(amounts["photometric"] > 0, front)
    assert losses_of[0] < 2e-3 and losses_of[1] > 0.1


def test_told_coefficients_ask_for_the_share_that_labels_tell():
    truth, known = torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    assert losses.told_loss(truth, known * truth, known) == 0
    found = torch.tensor([[2.0, 0.0, 7.0]], requires_grad=True)
    loss = losses.told_loss(found, known * truth, known)
    loss.backward()
    assert torch.isclose(loss, torch.tensor(0.25 / 3)) and found.grad[0, 2] == 0 and found.grad[0, 1] > 0
    assert losses.told_loss(found, truth, torch.ones(1, 3)) == losses.coefficient_loss(found, truth)


def test_labels_that_tell_a_share_are_compared_with_that_share(toy_model):
    truth = some_parameters(toy_model, 2)
    batch, shape = some_batch(toy_model, truth, [0, 0]), SparseShape(toy_model, 20)
    known = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    shares = dict(identity=truth.identity * known[:, :5], expression=truth.expression * known[:, 5:])
    fitted = dataclasses.replace(batch, parameters=truth.replace(**shares), known=known, shaped=batch.lit & False)
    terms = all_terms(truth, fitted, shape, toy_model)
    assert terms["identity"] < 1e-12 and terms["expression"] < 1e-12
    assert "vertices" not in terms  # 68 points say little of them
    half = all_terms(truth, dataclasses.replace(fitted, shaped=torch.tensor([False, True])), shape, toy_model)
    one = all_terms(truth[1], dataclasses.replace(some_batch(toy_model, fitted.parameters[1], [0])), shape, toy_model)
    assert half["vertices"] > 1 and torch.isclose(half["vertices"], one["vertices"])


def test_one_person_is_alike_and_others_are_not():
    codes = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 5.0], [4.0, 5.0]])
    person = torch.tensor([3, 3, -1, -1])
    pairs = [((codes[i] - codes[j]) ** 2).mean() for i in range(4) for j in range(4) if {i, j} != {0, 1} and i != j]
    within, between = 2.0, float(sum(pairs) / len(pairs))
    loss = losses.same_person_loss(codes, person)
    assert float(loss) == pytest.approx(within / between)
    assert torch.isclose(losses.same_person_loss(7 * codes + 3, person), loss)  # no way out by smaller codes
    alike = codes.clone()
    alike[1] = alike[0]
    assert losses.same_person_loss(alike, person) == 0


@pytest.mark.parametrize("person", [[-1, -1, -1], [0, 1, 2], [4, 4, 4]], ids=["nobody", "no two", "all the same"])
def test_without_pairs_of_one_person_or_without_others_nothing_is_asked(person):
    codes = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = losses.same_person_loss(codes, torch.tensor(person))
    loss.backward()
    assert loss == 0 and not codes.grad.any()


def test_pictures_of_one_person_have_one_identity_and_skin(toy_model):
    truth = some_parameters(toy_model, 4).map(lambda tensor: tensor.clone().requires_grad_())
    batch, shape = some_batch(toy_model, truth.map(torch.Tensor.detach), [0, 1, 2, 2]), SparseShape(toy_model, 20)
    batch = dataclasses.replace(batch, person=torch.tensor([1, 1, 2, -1]))
    config = SimpleNamespace(**vars(CONFIG) | {"weights": LossWeights(same_person=1.0)})
    terms, _ = semi_supervised_terms(comparison(truth, batch, shape, toy_model, config))
    expected = [losses.same_person_loss(codes, batch.person) for codes in (truth.identity, truth.albedo)]
    assert torch.isclose(terms["same_person"], (expected[0] + expected[1]) / 2)
    terms["same_person"].backward()
    assert {name for name, value in truth.as_tensors().items() if value.grad is not None} == {"identity", "albedo"}


def test_a_model_with_one_definition_holds_it_once(toy_model):
    truth = some_parameters(toy_model, 2)
    shape = SparseShape(toy_model, 20)
    turned = shape.turned(truth)
    assert turned.shape == (2, 88, 3) and shape.vertices(turned).shape == (2, 20, 3)
    assert torch.equal(shape.landmarks(turned, truth, "ibug"), shape.landmarks(turned, truth))
