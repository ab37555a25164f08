"""Make docs/how_it_works_1.jpg to _5.jpg, the pictures of docs/how_it_works.md, and print its numbers: one photo's way.

`python benchmarks/how_it_works.py PHOTO`, after `dvc pull data.dvc weights.dvc`. Of PHOTO the largest face is taken,
upright; the page's is 002_smiling.jpg of the Face Research Lab London Set.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from mlanet_lib import renderer
from mlanet_lib.drawing import textures, views
from mlanet_lib.face_model.front import front_faces
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.geometry.crops import Box, crop_image
from mlanet_lib.network import attention
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import Face, Predictor
from mlanet_lib.show import charts, figures
from mlanet_lib.training import losses

WIDTH, CELL, LOSS_SIZE = 1100, 480, 64  # px: of the pictures, of what is drawn in them, of profile open's loss


def grid(images, notes, cell: float = 1.55) -> figures.Figure:
    """`figures.image_grid` with a note under each picture."""
    figure = figures.image_grid(images, cell=cell)
    for axis, note in zip(figure.axes, np.ravel(notes), strict=True):
        axis.set_xlabel(note, fontsize=8, labelpad=2)
    figure.set_figheight(figure.get_figheight() + 0.2 * len(images))
    return figure


def looks(predictor: Predictor, photo: np.ndarray, face: Face) -> figures.Figure:
    """1: the detector's box and five points in the photo, the squares of the network's two looks, their crops."""
    detection, size, drawn = predictor.detector.detect(photo)[0], predictor.image_size, Image.fromarray(photo)
    pen, images = ImageDraw.Draw(drawn), [drawn]
    boxes = {"box": face.box, "look 1": Box(*detection.crop()), "look 2": face.crop}
    for (name, box), colour in zip(boxes.items(), charts.COLOURS, strict=False):
        pen.rectangle([box.x, box.y, box.x + box.w, box.y + box.h], outline=colour, width=4)
        print(f"{name}: x {box.x:.0f}, y {box.y:.0f}, {box.w:.0f} x {box.h:.0f} px")
        if name != "box":
            crop = crop_image(photo, box, size)
            points = views.landmarks(predictor.model, predictor.predict_crops(crop[None]), CELL)[0]
            large = np.asarray(Image.fromarray(crop).resize((CELL, CELL), Image.Resampling.NEAREST))
            images.append(views.draw_landmarks(large, points, tuple(bytes.fromhex(colour[1:])), 2))
    for x, y in detection.points:
        pen.ellipse([x - 5, y - 5, x + 5, y + 5], fill=charts.COLOURS[0], outline="white")
    return grid([images], ["detector's box", *(f"look {k}: {size} x {size} px" for k in (1, 2))], cell=2.6)


def levels(network, crop: np.ndarray, sharp: np.ndarray) -> figures.Figure:
    """2: what the levels hold, what attention and the coarser level's gate multiply it with, what the heads read."""
    seen, parts = {}, (network.attention, network.gates)
    for module in (*parts[0], *parts[1]):
        module.register_forward_hook(lambda module, before, after: seen.update({module: (before[0], after)}))
    fused = network.level_features(torch.from_numpy(crop / np.float32(255)).permute(2, 0, 1)[None])
    held = [seen[module][0] for module in network.attention]
    energy = [[attention.energy_map(features)[0] for features in part] for part in (held, fused)]
    gains = [[seen[m][1].norm(dim=1)[0] / seen[m][0].norm(dim=1)[0] for m in part] for part in parts]
    notes = [[f"times {gain.min():.2f} to {gain.max():.2f}" for gain in part] for part in gains]
    sizes = [[" x ".join(map(str, features.shape[1:])) for features in part] for part in (held, fused)]
    notes = np.ravel([sizes[0], notes[0], [*notes[1], "none: the coarsest"], sizes[1]])
    gains[1].append(torch.full((1, 1), torch.nan))
    maps = [[values / values.max() for values in row] for row in (energy[0], *gains, energy[1])]
    figure = figures.attention_levels([sharp] * 4, maps, network.config.levels)
    for axis, row in zip(figure.axes[:-1:5], ("backbone", "attention", "gate", "read by heads"), strict=True):
        axis.images[0].remove()
        axis.set_title(" ")
        axis.text(1, 0.5, row, ha="right", va="center", transform=axis.transAxes)
    for axis, note in zip((axis for k, axis in enumerate(figure.axes[:-1]) if k % 5), notes, strict=True):
        axis.set_xlabel(note, fontsize=8)
    figure.axes[-1].set_ylabel("share of the map's largest")
    figure.set_figheight(figure.get_figheight() + 0.9)
    return figure


@charts.styled
def numbers(predictor: Predictor, face: FaceParameters) -> figures.Figure:
    """3: what each group of parameters reads from which level, and the strongest coefficients."""
    figure = charts.level_weights(predictor.network.level_weights(), predictor.network.config.levels)
    figure.axes[0].set_title("each level's weight")
    figure.set_figwidth(9)
    figure.get_layout_engine().set(rect=(0, 0, 0.57, 1))
    modes = [f"mode {k}" for k in range(predictor.model.n_identity)]
    groups = (("expression", predictor.model.expression_names, "1 = full"), ("identity", modes, "sd"))
    for (group, labels, unit), colour, low in zip(groups, charts.COLOURS[1:], (0.63, 0.15), strict=False):
        axis, values = figure.add_axes((0.725, low, 0.27, 0.34)), getattr(face, group)[0]
        order = values.abs().argsort(descending=True)[:6]
        axis.bar_label(axis.barh([labels[k] for k in order], values[order], color=colour), fmt="%+.2f", fontsize=7.5)
        axis.set(xlabel=f"{group}, {unit}: strongest of {len(values)}", xmargin=0.2, ylim=(5.6, -0.6))
    print("pose", face.pose_degrees(), "mm", face.translation, "albedo", face.albedo, "light", face.lighting.mean(2))
    return figure


def shapes(model, parameters: FaceParameters) -> figures.Figure:
    """4: the mean face, with identity, with expression, in its pose; how far each moves the surface; albedo."""
    mean, down = FaceParameters.neutral(model), torch.tensor([0.0, 25.0, 0.0])  # mm: the whole head in the picture
    person, skin = mean.replace(identity=parameters.identity), mean.replace(albedo=parameters.albedo)
    faces = [mean, person, person.replace(expression=parameters.expression), parameters, skin]
    *faces, skin = (f.replace(focal=0.7 * f.focal, translation=f.translation + down) for f in faces)
    vertices, middle, notes = [model.vertices(f.identity, f.expression)[0] for f in faces], [], []
    for k, name in enumerate(("identity", "expression")):
        moved = (vertices[k + 1] - vertices[k]).norm(dim=1).numpy()
        middle.append(views.coloured(model, faces[2], CELL, figures.colour_of(moved, np.quantile(moved, 0.99))))
        print(f"{name} moves vertices by {moved.mean():.2f} mm in the mean")
        notes.append(f"{name}: 0 to {np.quantile(moved, 0.99):.1f} mm")
    images = [[views.coloured(model, face, CELL) for face in faces]]
    images += [[views.textured(model, faces[0], CELL), *middle, views.textured(model, skin, CELL)]]
    return grid(images, ["mean face", "+ identity", "+ expression", "+ pose", "mean albedo", *notes, "+ albedo"])


def compared(predictor: Predictor, photo: np.ndarray, face: Face, sharp: np.ndarray) -> figures.Figure:
    """5: light, the drawn face, over the photo, the residual; the points, and pictures that are written to files."""
    model, parameters, white = predictor.model, face.parameters, np.full_like(sharp, 255)
    target = torch.from_numpy(crop_image(photo, face.crop, LOSS_SIZE) / 255).permute(2, 0, 1)[None].float()
    front = front_faces(model)
    for name, light in (("predicted", parameters.lighting), ("white", FaceParameters.neutral(model).lighting)):
        small = renderer.render_face(model, parameters.replace(lighting=light), LOSS_SIZE)
        mask = renderer.covered_by(small.fragments, front).float()
        print(f"photometric, {name} light: {losses.photometric_loss(small.image, target, mask):.3f}")
    drawn, mask = views.rendered(model, parameters, CELL)
    light = renderer.render_face(model, parameters, CELL, albedo=1.0).image[0].permute(1, 2, 0).numpy()
    heat = figures.colour_of(np.linalg.norm(drawn - sharp / 255, axis=-1).ravel(), 0.6).reshape(CELL, CELL, 3)
    over = [(white, (0.75 * light).clip(0, 1)), (white, drawn), (sharp, drawn), (white, heat)]
    points = views.draw_landmarks(sharp, views.landmarks(model, parameters, CELL)[0], width=2)
    overlay = crop_image(predictor.overlay(photo, face), face.crop, CELL)
    files = [textures.albedo_texture(model, parameters), textures.photo_texture(model, parameters, sharp, CELL)]
    lowest = light[mask].min()
    notes = [f"light: {lowest:.2f} to {light.max():.2f}", "light times albedo", "over the photo", "residual, 0 to 0.6"]
    notes += ["68 points", "overlay (.png)", "texture (.glb, .obj)", "with --texture photo"]
    return grid([[views.blend(under, image, mask) for under, image in over], [points, overlay, *files]], notes)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="a picture with an upright face")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER", help="(default: docs)")
    options = parser.parse_args(arguments)
    predictor, photo = Predictor.load(), read_photo(options.photo)
    face = predictor.faces(photo)[0]
    print(
        f"{options.photo.name}, {photo.shape}, {predictor.weights}, {predictor.detector.kind}, score {face.score:.2f}"
    )
    sharp = crop_image(photo, face.crop, CELL)
    drawn = [looks(predictor, photo, face), levels(predictor.network, face.crop_image, sharp)]
    drawn += [numbers(predictor, face.parameters), shapes(predictor.model, face.parameters)]
    for number, figure in enumerate([*drawn, compared(predictor, photo, face, sharp)], 1):
        figure.savefig(options.out / f"how_it_works_{number}.jpg", dpi=WIDTH / figure.get_figwidth())


if __name__ == "__main__":
    main()
