"""Whether the rasterizers find at each pixel the face that is there: against every face at every pixel, in float64.

    python benchmarks/exactness.py [--faces N] [--size N] [--device cuda]

A pixel counts where the answer does not hang on float32's rounding: no edge of a face that matters runs within 1e-4 of
a barycentric coordinate of its centre, and the second surface lies at least 1e-3 mm behind the first.
"""

import argparse

import numba
import numpy as np
import torch
from renderer import bumpy_sphere

from mlanet_lib.geometry.camera import project
from mlanet_lib.rasterizer import backends, rasterize

EDGE, GAP = 1e-4, 1e-3


@numba.njit(parallel=True)
def every_face(vertices, faces, height, width):
    """The nearest face (H, W) at each pixel's centre, -1 for none, and whether it is clear (H, W).

    vertices: (V, 3) float64, pixels and depth. By barycentric coordinates, no bounding boxes, no edge functions.
    """
    index, clear = np.full((height, width), -1), np.ones((height, width), np.bool_)
    for i in numba.prange(height):
        for j in range(width):
            best, second, doubtful = np.inf, np.inf, np.inf
            for f in range(len(faces)):
                a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
                ux, uy, vx, vy = b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1]
                x, y = j + 0.5 - a[0], i + 0.5 - a[1]
                area = ux * vy - uy * vx
                if area == 0:
                    continue
                v, w = (x * vy - y * vx) / area, (ux * y - uy * x) / area
                lowest = min(v, w, 1 - v - w)
                if lowest < -EDGE:
                    continue
                z = a[2] + v * (b[2] - a[2]) + w * (c[2] - a[2])
                if lowest < EDGE:
                    doubtful = min(doubtful, z)
                if lowest >= 0:
                    if z < best:
                        best, second, index[i, j] = z, best, f
                    else:
                        second = min(second, z)
            if doubtful < best + GAP or (best < np.inf and second - best < GAP):
                clear[i, j] = False
    return index, clear


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=70_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    vertices, faces = bumpy_sphere(options.faces)
    points = project(vertices[None], torch.tensor([4.5]), options.size, options.size)
    index, clear = every_face(points[0].double().numpy(), faces.numpy(), options.size, options.size)
    wrong = 0
    print(f"{len(faces)} faces, {options.size} px: {clear.mean():.2%} of the pixels are clear")
    for name in backends():
        found = rasterize(points.to(options.device), faces.to(options.device), options.size, options.size, name)
        same = found.face_index[0].cpu().numpy() == index
        wrong += int((~same & clear).sum())
        print(f"{name}: {(same & clear).sum()} of {clear.sum()} clear pixels agree, {same.mean():.4%} of all")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
