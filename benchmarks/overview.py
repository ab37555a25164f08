"""Make docs/overview.jpg, the README's picture: faces of the benchmark in AFLW2000-3D's layout, reconstructed.

    python benchmarks/overview.py        (after `make repro`)

The faces are the first one without an occluder in each yaw bin, not chosen by how well they came out.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.geometry.crops import crop_box_from_landmarks, crop_image
from mlanet_lib.metrics import yaw_bin
from mlanet_lib.predictor import Predictor
from mlanet_lib.show import figures
from mlanet_lib.study.params import load_params


def main(target: Path = Path("docs/overview.jpg")) -> None:
    predictor = Predictor.load()
    samples = [s for s in aflw2000.read_folder(load_params().paths.aflw2000) if not s.truth.occluded]
    bins = yaw_bin(np.array([sample.pose_degrees[1] for sample in samples]))
    chosen = [samples[int(np.flatnonzero(bins == k)[0])] for k in range(3)]
    crops = [crop_image(sample.image(), crop_box_from_landmarks(sample.landmarks), 256) for sample in chosen]
    labels = [f"yaw {sample.pose_degrees[1]:+.0f}°" for sample in chosen]
    figure = figures.reconstructions(predictor.model, crops, predictor.predict_crops(np.stack(crops)), labels)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target.with_suffix(".png"), dpi=110)
    Image.open(target.with_suffix(".png")).convert("RGB").save(target, quality=88)
    target.with_suffix(".png").unlink()


if __name__ == "__main__":
    main()
