"""How fast pictures come to a training, beside a plain torchvision and Pillow loader.

    python benchmarks/loading.py FOLDER [--size 112] [--count 4000] [--workers 2]

FOLDER: images.zip and labels.npz, as `mlanet_lib.data.sets.crops` reads them. Three ways, in images a second:

- pack: `packing.pack`, once before a training: zip -> decoded, cropped crops in one file;
- plain: a torch Dataset of JPEG files with Pillow and torchvision's transforms, in a DataLoader, every epoch anew;
- batch: `TrainingData.batch`, from the packed arrays on the disk, without and with `augment`.
"""

import argparse
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from mlanet_lib.data.packing import pack
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.crops import to_crop
from mlanet_lib.training.augmentation import AugmentConfig, augment, random_numbers
from mlanet_lib.training.data import TrainingData, visiting_order

MODEL = "data/face_models/ict.npz"
NEEDED = 300
"""Images a second that forward and backward passes of a small network take on two cores, about."""


class PlainFiles(torch.utils.data.Dataset):
    """The usual loader: one JPEG file a sample, opened, cropped, resized and turned into a tensor by torchvision."""

    def __init__(self, folder: Path, samples, size: int):
        self.rows = [(folder / s.name, s.crop(), s.landmarks) for s in samples]
        self.size, self.to_tensor = size, transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        path, box, points = self.rows[index]
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        top, left, side = round(box.y), round(box.x), round(box.w)
        crop = F.resized_crop(picture, top, left, side, side, [self.size, self.size])
        return self.to_tensor(crop), torch.from_numpy(to_crop(points, box))


def rate(batches) -> float:
    """Images a second of an iterable of image batches, after the first, which starts workers and fills caches."""
    iterator = iter(batches)
    next(iterator)
    start, count = time.perf_counter(), 0
    for images in iterator:
        count += len(images)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=112, help="side of the crops, px")
    parser.add_argument("--count", type=int, default=4000, help="pictures taken, evenly over the folder")
    parser.add_argument("--workers", type=int, default=2, help="threads of pack, processes of the plain loader")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    samples = read_archive(options.folder)
    chosen = np.linspace(0, len(samples) - 1, min(options.count, len(samples))).astype(int)
    samples = [samples[i] for i in chosen]
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        packed = pack(samples, Path(scratch) / "packed", options.size, options.workers, progress=False)
        rates["pack (zip -> arrays), once"] = len(samples) / (time.perf_counter() - start)

        plain = Path(scratch) / "plain"
        with zipfile.ZipFile(options.folder / "images.zip") as archive:
            archive.extractall(plain, [s.name for s in samples])
        loader = torch.utils.data.DataLoader(
            PlainFiles(plain, samples, options.size), options.batch, shuffle=True, num_workers=options.workers
        )
        rates[f"plain Dataset + DataLoader, {options.workers} workers"] = rate(images for images, _ in loader)

        data = TrainingData(packed, MorphableModel.load(MODEL), options.size)
        rows = visiting_order(data.kind, data.person, 0, 0).split(options.batch)
        generator, config = torch.Generator().manual_seed(0), AugmentConfig()
        rates["TrainingData.batch"] = rate(data.batch(part).images for part in rows)
        rates["TrainingData.batch + augment"] = rate(
            augment(data.batch(p), config, random_numbers(len(p), generator)).images for p in rows
        )
    base = next(value for name, value in rates.items() if name.startswith("plain"))
    print(f"{len(samples)} pictures of {options.folder.name}, {options.size} px, {options.workers} cores")
    print(f"{'':42}{'images/s':>10}{'x plain':>10}{f'x needed ({NEEDED}/s)':>20}")
    for name, value in rates.items():
        print(f"{name:42}{value:10.0f}{value / base:10.2f}{value / NEEDED:20.1f}")


if __name__ == "__main__":
    main()
