"""Make docs/protocols.jpg, the picture of docs/protocols.md: what each number measures, drawn on synthetic faces.

    python benchmarks/protocols.py        (after `dvc pull data.dvc`; needs no weights)

The numbers in the panels are computed here by the library's own metrics; the "prediction" is always the mean face.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from mlanet_lib import metrics
from mlanet_lib.data.sets.scans import Scan, View, draw_views
from mlanet_lib.data.synthetic.faces import sample_people, stream
from mlanet_lib.drawing.views import LANDMARK_CHAINS, textured
from mlanet_lib.evaluation.scans import deng, mean_shape, prnet
from mlanet_lib.evaluation.sparse import oracle_pose
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import Box, crop_image
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.geometry.surface import Surface
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import turned
from mlanet_lib.show.charts import COLOURS, INK, styled

MODEL = "data/face_models/ict.npz"
SIZE = 300
TRUTH, GUESS, BOX = COLOURS[4], COLOURS[2], COLOURS[0]
YAW, PITCH = (-80, -40, 0, 40, 80), (25, 20, 0, -15)
BIN_COUNTS = (1312, 383, 305)  # AFLW2000-3D's photos, by the |yaw| of Pose_Para


@styled
def main(target: Path = Path("docs/protocols.jpg")) -> None:
    model = MorphableModel.load(MODEL)
    person = someone(model)
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    parts = figure.subfigures(2, 3, wspace=0.03, hspace=0.05)
    panels = (sparse, yaw_bins, head_pose, deng_form, prnet_form, normalisers)
    for part, panel in zip(parts.flat, panels, strict=True):
        panel(part, model, person)
    png = target.with_suffix(".png")
    figure.savefig(png, dpi=120)
    plt.close(figure)
    Image.open(png).convert("RGB").save(target, quality=86)
    png.unlink()


def someone(model: MorphableModel) -> FaceParameters:
    """A synthetic person, neutral and frontal, under a soft lamp."""
    identity, albedo = (torch.tensor(values).float() for values in sample_people(model, stream(5, "scans"), 1))
    lamp = torch.nn.functional.normalize(torch.tensor([[0.35, 0.45, 0.82]]), dim=-1)
    light = ambient(1, 0.5) + directional(lamp, torch.full((1, 3), 0.5))
    return FaceParameters.neutral(model, 1).replace(identity=identity, albedo=albedo, lighting=light)


def posed(model, face: FaceParameters, pitch=0.0, yaw=0.0, roll=0.0) -> FaceParameters:
    """The face turned, in a picture a little wider than a crop."""
    face = face.replace(focal=face.focal * 0.8)
    return turned(model, face, euler_to_matrix(torch.tensor([[pitch, yaw, roll]])))


def seen(model, face: FaceParameters) -> tuple[np.ndarray, np.ndarray]:
    """Every vertex (V, 3) and the 68 points (68, 3): pixels of a picture of SIZE, and depth in the same unit."""
    vertices = model.vertices(face.identity, face.expression)
    camera = to_camera(vertices, face.rotation, face.translation)
    points = project(camera, face.focal, SIZE, SIZE).double()
    points[..., 2] *= face.focal[0] * SIZE / face.translation[0, 2]
    return points[0].numpy(), model.landmarks(points)[0].numpy()


def picture(axis, image: np.ndarray) -> None:
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    axis.set_axis_off()


def lines(axis, points: np.ndarray, colour: str, label: str) -> None:
    for chain, closed in LANDMARK_CHAINS:
        loop = [*chain, *([chain[0]] if closed else [])]
        axis.plot(points[loop, 0], points[loop, 1], color=colour, linewidth=1.1)
    axis.plot([], [], color=colour, label=label)


def box(axis, points: np.ndarray, colour: str, label: str) -> np.ndarray:
    """The tight box around points; returns its sides."""
    low, sides = points[:, :2].min(0), np.ptp(points[:, :2], axis=0)
    axis.add_patch(Rectangle(low, *sides, fill=False, edgecolor=colour, linewidth=1.5, label=label))
    return sides


def title(part, number: int, text: str, below: str) -> None:
    part.suptitle(f"{number}  {text}", fontsize=10.5, fontweight="bold", x=0.02, ha="left")
    part.supxlabel(textwrap.fill(below, 62), fontsize=8.3, color=INK)


def sparse(part, model, person) -> None:
    face = posed(model, person, pitch=4.0, yaw=28.0)
    truth = seen(model, face)[1][:, :2]
    guess = oracle_pose(model, truth[None])[0][0]
    axis = part.subplots()
    picture(axis, textured(model, face, SIZE))
    lines(axis, truth, TRUTH, "ground truth")
    lines(axis, guess, GUESS, "prediction")
    for a, b in zip(truth, guess, strict=True):
        axis.plot(*zip(a, b, strict=True), color="#D00000", linewidth=1)
    w, h = box(axis, truth, BOX, "tight box, w x h")
    axis.legend(loc="upper left", fontsize=7.5)
    nme = metrics.sparse_nme(guess[None], truth[None])[0]
    below = f"mean length of the 68 red lines / sqrt(w h), here sqrt({w:.0f} x {h:.0f}) px: {nme:.2f} %"
    title(part, 1, "Sparse NME (AFLW2000-3D)", below)


def yaw_bins(part, model, person) -> None:
    top, bottom = part.subfigures(2, 1, height_ratios=(1, 1))
    labels = ("|yaw| up to 30", "30 to 60", "over 60")
    for axis, yaw, label in zip(top.subplots(1, 3), (15.0, 45.0, 75.0), labels, strict=True):
        picture(axis, textured(model, posed(model, person, yaw=yaw), 150))
        axis.set_title(f"{label}°", fontsize=8.5, loc="center", fontweight="normal")
    axis = bottom.subplots()
    shares = np.array(BIN_COUNTS) / sum(BIN_COUNTS)
    for row, weights in enumerate((shares, np.full(3, 1 / 3))):
        left = 0.0
        for k, weight in enumerate(weights):
            axis.barh(row, weight, left=left, color=COLOURS[k], height=0.6)
            axis.text(left + weight / 2, row, f"{100 * weight:.0f} %", ha="center", va="center", color="white")
            left += weight
    axis.set_yticks([0, 1], ["image mean", "balanced mean"])
    axis.set_xticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    title(
        part,
        2,
        "Two means over yaw bins",
        "what each bin weighs in 2,000 photos; the literature's mean is the balanced one",
    )


def head_pose(part, model, person) -> None:
    axes = part.subplots(2, 2)
    cases = [{}, {"pitch": 25.0}, {"yaw": 35.0}, {"roll": 25.0}]
    for axis, angles in zip(axes.flat, cases, strict=True):
        face = posed(model, person, **angles)
        picture(axis, textured(model, face, 150))
        centre = model.landmarks(model.vertices(face.identity, face.expression)).mean(1, keepdim=True)
        ends = centre + 70 * torch.cat([torch.zeros(1, 3), torch.eye(3)])[None]
        drawn = project(to_camera(ends, face.rotation, face.translation), face.focal, 150, 150)[0].numpy()
        for k, colour in enumerate(("#D00000", COLOURS[2], COLOURS[0])):
            axis.plot(drawn[[0, k + 1], 0], drawn[[0, k + 1], 1], color=colour, linewidth=2)
        name = ", ".join(f"{name} +{value:.0f}°" for name, value in angles.items()) or "all 0°"
        axis.set_title(name, fontsize=8.5, loc="center", fontweight="normal")
    title(part, 3, "Head pose", "mean absolute error of the three angles, R = Rx(pitch) Ry(yaw) Rz(roll)")


def as_scan(model, person) -> Scan:
    vertices = model.vertices(person.identity, person.expression)
    points = model.landmarks(vertices)[0].double().numpy()
    marks = {k: points[k] for k in (30, 33, 36, 39, 42, 45, 48, 54)}
    colours = model.albedo(person.albedo)[0].clamp(0, 1).double().numpy()
    return Scan(vertices[0].double().numpy(), model.faces.numpy(), marks, colours=colours)


def deng_form(part, model, person) -> None:
    scan, mean = as_scan(model, person), mean_shape(model)
    result = deng(model, mean, scan)
    crop, nose = result["parameters"]["crop_mm"], scan.landmarks[30]
    placed = result["transform"].apply(mean)
    closest = Surface(placed, scan.faces).closest(scan.vertices).points
    gaps = np.linalg.norm(scan.vertices - closest, axis=1)
    inside = np.linalg.norm(scan.vertices - nose, axis=1) <= crop
    heat = np.where(inside[:, None], plt.get_cmap("turbo")(np.clip(gaps / 5, 0, 1))[:, :3], 0.75)
    left, right = part.subplots(1, 2, width_ratios=(1, 1.05))
    coloured = Scan(scan.vertices, scan.faces, scan.landmarks, colours=heat)
    picture(left, close_up(draw_views(coloured, model, lit=True)[0], 260))
    left.set_title("scan, 0 (blue) to 5 mm (red)", fontsize=8, loc="center", fontweight="normal")
    right.plot(*slice_at(scan.vertices, scan.faces, nose[0]), color=TRUTH, linewidth=1.6, label="scan")
    right.plot(*slice_at(placed, scan.faces, nose[0]), color=GUESS, linewidth=1.6, label="prediction after ICP")
    near = inside & (np.abs(scan.vertices[:, 0] - nose[0]) < 2.5) & (scan.vertices[:, 2] > nose[2] - 60)
    for a, b in zip(scan.vertices[near], closest[near], strict=True):
        right.plot([a[2], b[2]], [a[1], b[1]], color="#D00000", linewidth=0.8)
    right.add_patch(Circle(nose[[2, 1]], crop, fill=False, linestyle="--", edgecolor=BOX, label=f"{crop:.0f} mm crop"))
    right.plot(*nose[[2, 1]], "o", color=BOX, markersize=4)
    right.set_aspect("equal")
    right.set_xlim(nose[2] - 1.15 * crop, nose[2] + 0.3 * crop)
    right.set_ylim(nose[1] - 1.1 * crop, nose[1] + 1.1 * crop)
    right.set_axis_off()
    right.legend(loc="lower left", fontsize=7)
    below = f"RMS of the distances from scan points to the predicted surface, mm: {result['rmse_mm']:.2f}"
    title(part, 4, "Florence, Deng's form", below)


def close_up(view: View, size: int) -> np.ndarray:
    """The face's box of a drawn scan, somewhat enlarged."""
    x, y, w, h = view.box
    return crop_image(view.image, Box(x - 0.1 * w, y - 0.15 * h, 1.2 * w, 1.2 * h), size, padding="edge")


def slice_at(vertices: np.ndarray, faces: np.ndarray, x: float) -> np.ndarray:
    """Where a mesh meets the plane at `x`: (2, 3 n) z and y of segments, parted by NaN, for a plot."""
    corners = vertices[faces]
    edges = np.stack([corners, np.roll(corners, -1, 1)], 2)
    a, b = edges[..., 0, :], edges[..., 1, :]
    crosses = (a[..., 0] < x) != (b[..., 0] < x)
    cut = crosses.sum(1) == 2
    share = ((x - a[..., 0]) / np.where(crosses, b[..., 0] - a[..., 0], 1))[..., None]
    ends = (a + share * (b - a))[cut][crosses[cut]].reshape(-1, 2, 3)
    return np.concatenate([ends[..., [2, 1]], np.full((len(ends), 1, 2), np.nan)], 1).reshape(-1, 2).T


def prnet_form(part, model, person) -> None:
    scan = as_scan(model, person)
    views = draw_views(scan, model, YAW, PITCH, lit=True)
    axes = part.subplots(len(PITCH), len(YAW), gridspec_kw={"wspace": 0, "hspace": 0})
    for axis, view in zip(axes.flat, views, strict=True):
        picture(axis, close_up(view, 110))
        if view.pitch == PITCH[0]:
            axis.set_title(f"yaw {view.yaw:+.0f}°", fontsize=7.5, loc="center", fontweight="normal", pad=2)
        if view.yaw == YAW[0]:
            axis.text(
                -0.04, 0.5, f"pitch\n{view.pitch:+.0f}°", transform=axis.transAxes, ha="right", va="center", fontsize=7
            )
    nme = prnet(model, mean_shape(model), scan)["nme_percent"]
    below = (
        "pictures drawn of the scan itself; mean nearest-point distance after ICP / distance of the outer eye corners: "
        f"{nme:.2f} %"
    )
    title(part, 5, "Florence, PRNet's form", below)


def normalisers(part, model, person) -> None:
    face = posed(model, person, yaw=20.0)
    dense, points = seen(model, face)
    guess = oracle_pose(model, points[None, :, :2])[0][0]
    axis = part.subplots()
    picture(axis, textured(model, face, SIZE))
    a = box(axis, points, BOX, "box of the 68 points: sparse")
    b = box(axis, dense, COLOURS[3], "box of all vertices: dense")
    eyes = points[[36, 45]]
    axis.plot(eyes[:, 0], eyes[:, 1], "o-", color=COLOURS[1], linewidth=2, label="36 to 45 in 3D: reconstruction")
    axis.set_xlim(min(0, dense[:, 0].min()) - 4, max(SIZE, dense[:, 0].max()) + 4)
    axis.set_ylim(max(SIZE, dense[:, 1].max()) + 4, min(0, dense[:, 1].min()) - 4)
    axis.legend(loc="lower right", fontsize=7.5, facecolor="white", frameon=True, framealpha=0.85)
    miss = np.linalg.norm(guess - points[:, :2], axis=1).mean()
    rulers = (np.sqrt(a.prod()), np.sqrt(b.prod()), np.linalg.norm(eyes[0] - eyes[1]))
    sizes = ", ".join(f"{100 * miss / ruler:.2f} %" for ruler in rulers)
    title(
        part, 6, "Three rulers for one error", f"a mean miss of {miss:.1f} px is {sizes}: percents of different things"
    )


if __name__ == "__main__":
    main()
