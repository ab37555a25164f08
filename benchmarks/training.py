"""Where the time of a training step goes.

    python benchmarks/training.py [--quick] [--resnet50] [--backbone NAME] [--image-size PX] [--batch N]
                                  [--device cuda] [--threads N] [--profile-of-step N]

What is timed is `mlanet_lib.training.loop.fit` itself, with the configuration of params.yaml: its functions are
wrapped by a clock, and marks in the autograd graph let the clock follow the backward pass, so that every moment of a
step belongs to one part. Medians over steps after the warm-up, with and without the photometric term. The clock
watches every other step; the sum of its parts is compared with the steps between, from which the images a second come,
too. On a GPU the clock is made of CUDA events and waits for the end of each step: there the images a second are those
of another run.
"""

import argparse
import dataclasses
import resource
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from mlanet_lib import renderer
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import find_root
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.network import MLANet, NetworkConfig
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.study.params import Params, load_params
from mlanet_lib.training import loop
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.data import TrainingData
from mlanet_lib.training.loop import fit
from mlanet_lib.training.processes import Processes

RESNET50 = {"network.backbone": "resnet50", "network.image_size": 224, "train.batch_size": 32}
RESNET50 |= {"train.photometric_batch": 32, "train.photometric_size": 112}  # every sample that its picture judges
FEWEST = 7  # steps of a run: the first two of each kind are left out
NETWORK, LOSSES = "network", "losses (rest)"
PARTS = ("data", "augmentation", NETWORK, "decode", "raster + interpolation", "shading", LOSSES, "optimiser", "loop")


def synthetic_split(folder: Path, model: MorphableModel, count: int, size: int, shares: tuple[float, float]) -> Path:
    """A split of noise pictures with parameters around the neutral face: what a step costs, not what is learned.

    shares: of the samples, how many are labelled and how many landmarked.
    """
    generator, numbers = torch.Generator().manual_seed(0), np.random.default_rng(0)
    neutral = FaceParameters.neutral(model, count)
    parameters = neutral.replace(
        identity=torch.randn(neutral.identity.shape, generator=generator),
        expression=torch.rand(neutral.expression.shape, generator=generator),
        albedo=torch.randn(neutral.albedo.shape, generator=generator),
        rotation=euler_to_matrix(30 * torch.randn(count, 3, generator=generator)),
    )
    mean = model.landmarks(model.mean[None]).expand(count, -1, -1)
    points = project(to_camera(mean, parameters.rotation, parameters.translation), parameters.focal, 1, 1)[..., :2]
    kind = np.searchsorted(np.cumsum(shares), (np.arange(count) + 0.5) / count)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", numbers.integers(0, 256, (count, size, size, 3), np.uint8))
    labels = {name: value.numpy() for name, value in parameters.as_tensors().items()}
    np.savez(
        folder / "labels.npz", landmarks=points.numpy(), visible=np.ones((count, 68), np.float32), kind=kind, **labels
    )
    return folder


class _Mark(torch.autograd.Function):
    """The identity; `switch` is called when the backward pass comes by."""

    @staticmethod
    def forward(ctx, switch, *tensors):
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients):
        ctx.switch()
        return None, *gradients


def _mapped(value, function):
    """A value with `function` applied to the tensors in it that need a gradient."""
    if isinstance(value, torch.Tensor):
        return function(value) if value.requires_grad else value
    if isinstance(value, dict):
        return {name: _mapped(part, function) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [_mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value):
        return type(value)(**{f.name: _mapped(getattr(value, f.name), function) for f in dataclasses.fields(value)})
    return value


def _marked(value, switch):
    """A value whose gradient passes one mark, that is all of it at once."""
    tensors = []
    _mapped(value, tensors.append)
    if not tensors:
        return value
    marked = iter(_Mark.apply(switch, *tensors))
    return _mapped(value, lambda _: next(marked))


class Clock:
    """Which part of a step, and which pass, the time belongs to.

    parts: a dictionary of seconds for each step that was watched; wholes: seconds of the steps between. Nodes of an
    autograd graph run in the reverse order of their making, so that between the marks at a function's results and
    those at its arguments lies the backward pass of that function.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.stack, self.passing, self.stamps = ["loop"], "forward", []
        self.watching, self.parts, self.wholes = False, [], []

    def switch(self, part: str, passing: str | None = None) -> None:
        self.passing = passing or self.passing
        if self.cuda:
            stamp = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            stamp = time.perf_counter()
        self.stamps.append(((part, self.passing), stamp))

    def step(self) -> None:
        """The end of one step and the start of the next."""
        self.switch("data", "forward")
        if self.cuda:
            torch.cuda.synchronize()
        parts = defaultdict(float)
        for (key, start), (_, end) in zip(self.stamps, self.stamps[1:], strict=False):
            parts[key] += start.elapsed_time(end) / 1e3 if self.cuda else end - start
        if self.watching:
            self.parts.append(dict(parts))
        elif parts:
            self.wholes.append(sum(parts.values()))
        self.watching, self.stamps = not self.watching, self.stamps[-1:]

    def timed(self, part: str, function, backward: bool = False):
        """`function`, whose time goes to `part`, and with `backward` that of its backward pass, too."""

        def wrapper(*arguments, **options):
            if not self.watching:
                return function(*arguments, **options)
            outer = self.stack[-1]
            if backward:
                arguments = _marked(arguments, lambda: self.switch(outer, "backward"))
            self.stack.append(part)
            self.switch(part)
            result = function(*arguments, **options)
            self.stack.pop()
            self.switch(outer)
            return _marked(result, lambda: self.switch(part, "backward")) if backward else result

        return wrapper

    def installed(self) -> ExitStack:
        """A context in which `fit` is timed."""
        stack = ExitStack()

        def swap(owner, name: str, part: str, backward: bool = False) -> None:
            function = self.timed(part, getattr(owner, name), backward)
            stack.enter_context(patch.object(owner, name, function))

        swap(TrainingData, "batch", "data")
        swap(loop, "random_numbers", "augmentation")
        swap(loop, "augment", "augmentation")
        swap(MLANet, "forward", NETWORK, backward=True)
        swap(loop, "semi_supervised_terms", LOSSES)
        swap(renderer, "decode", "decode", backward=True)
        swap(MorphableModel, "albedo", "decode", backward=True)
        swap(renderer, "shade_vertices", "shading", backward=True)
        swap(renderer, "render", "raster + interpolation", backward=True)
        swap(loop, "total", LOSSES)
        swap(torch.nn.utils, "clip_grad_norm_", "optimiser")
        swap(loop, "update_average", "optimiser")
        backward, step = Processes.backward, torch.optim.AdamW.step

        def backward_and_tell(*arguments):
            if self.watching:
                self.switch(LOSSES, "backward")
            backward(*arguments)
            if self.watching:
                self.switch("loop", "forward")

        stack.enter_context(patch.object(Processes, "backward", backward_and_tell))
        stack.enter_context(patch.object(torch.optim.AdamW, "step", self.timed("optimiser", step)))
        return stack


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, on which device, and how many steps are made."""

    train: TrainConfig
    network: NetworkConfig
    model: MorphableModel
    folders: tuple[Path, Path]
    device: torch.device
    steps: int

    def fit(self, at_batch, steps: int | None = None) -> None:
        """Train for `steps` steps; `at_batch()` is called whenever a training batch is asked for, and at the end."""
        batch = TrainingData.batch

        def batch_and_tell(*arguments):
            at_batch()
            return batch(*arguments)

        # no validation: with it the steps would be of two kinds
        train = dataclasses.replace(self.train, steps=10**6, validate_every=10**6)
        with tempfile.TemporaryDirectory() as out, patch.object(TrainingData, "batch", batch_and_tell):
            job = Job(train, self.network, self.model, *self.folders, Path(out))
            fit(job, resume=None, max_steps=steps or self.steps, progress=False, device=str(self.device))

    def seconds_a_step(self) -> float:
        """Of a run without a clock, the mean over the steps after the first two."""
        stamps = []
        self.fit(lambda: stamps.append(time.perf_counter()))
        return float(np.mean(np.diff(stamps)[2:]))

    def parts(self) -> tuple[dict[tuple[str, str], float], float]:
        """Seconds of each (part, pass) of a step, and of a whole step that nobody watched: medians, two of each left
        out at the start."""
        clock = Clock(self.device)
        with clock.installed():
            self.fit(clock.step)
        watched = clock.parts[2:]
        keys = {key for step in watched for key in step}
        parts = {key: float(np.median([step.get(key, 0.0) for step in watched])) for key in keys}
        return parts, float(np.median(clock.wholes[2:]))

    def profile(self, step: int) -> str:
        """What torch's profiler says of one step, counted from 1."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        profiler, calls = torch.profiler.profile(activities=activities), []

        def at_batch() -> None:
            calls.append(None)
            if len(calls) == step:
                profiler.start()
            elif len(calls) == step + 1:
                profiler.stop()

        self.fit(at_batch, step + 1)
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        return profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)


def peak_mib(device: torch.device) -> float:
    """The most memory so far, MiB: allocated on a GPU, else resident of this process, the interpreter included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def report(setting: Setting) -> None:
    """Print the table of one configuration."""
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    parts, whole = setting.parts()
    total, rate = sum(parts.values()), setting.seconds_a_step() if setting.device.type == "cuda" else whole
    images = min(setting.train.batch_size, len(np.load(setting.folders[0] / "images.npy", mmap_mode="r")))
    pictures = setting.train.photometric_batch
    print(f"\n{'with' if pictures else 'without'} the photometric term: {images / rate:.1f} images/s")
    print(f"{'part':26}{'forward ms':>12}{'backward ms':>12}{'% of step':>12}")
    for part in PARTS:
        passes = [parts.get((part, passing), 0.0) for passing in ("forward", "backward")]
        print(f"{part:26}{1e3 * passes[0]:12.2f}{1e3 * passes[1]:12.2f}{100 * sum(passes) / total:12.1f}")
    network = sum(seconds for (part, _), seconds in parts.items() if part == NETWORK)
    print(f"sum of the parts {1e3 * total:.2f} ms, an undisturbed step {1e3 * whole:.2f} ms: {total / whole:.3f}")
    print(f"what is not the network's forward and backward: {100 * (1 - network / total):.1f} % of a step")
    kind = "allocated" if setting.device.type == "cuda" else "resident"
    print(f"peak memory so far, {kind}: {peak_mib(setting.device):.0f} MiB", flush=True)


def make_setting(options, params: Params, scratch: Path) -> Setting:
    """The configuration of the command line, on the study's arrays where their pictures have the network's size."""
    root = find_root(__file__)
    model, folder = MorphableModel.load(root / params.face_model.path), root / params.paths.training
    size, folders = params.network.image_size, (folder / "train", folder / "validation")
    found = folders[0] / "images.npy"
    if found.is_file() and np.load(found, mmap_mode="r").shape[1] == size:
        print(f"training arrays of {params.paths.training}")
    else:
        shares, count = (params.data.labelled, params.data.landmarked), 8 * params.train.batch_size
        folders = tuple(synthetic_split(scratch / name, model, count, size, shares) for name in ("train", "held_out"))
        print(f"{count} synthetic samples")
    steps = options.steps or (FEWEST if options.quick else 40)
    return Setting(params.train, params.network, model, folders, torch.device(options.device), steps)


def arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, Params]:
    """The options, and the parameters with the options laid over them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps; with --resnet50 batches of 4")
    parser.add_argument("--resnet50", action="store_true", help="ResNet-50, 224 px, batches of 32: for a GPU")
    parser.add_argument("--backbone", help="a timm name")
    parser.add_argument("--image-size", type=int, metavar="PX")
    parser.add_argument("--batch", type=int, metavar="N")
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each run (default: 40)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: torch's)")
    parser.add_argument("--profile-of-step", type=int, metavar="N", help="torch's profile of that step as well")
    options = parser.parse_args(argv)
    changes = dict(RESNET50) if options.resnet50 else {}
    if options.resnet50 and options.quick:
        changes["train.batch_size"] = 4
    given = {"network.backbone": options.backbone, "network.image_size": options.image_size}
    given |= {"train.batch_size": options.batch, "train.precision": options.precision}
    changes |= {key: value for key, value in given.items() if value is not None}
    if (options.steps or FEWEST) < FEWEST:
        parser.error(f"--steps must be at least {FEWEST}: the first ones are not counted")
    changes |= {"train.compile": False, "network.pretrained": False}  # no download: weights do not matter here
    return options, load_params(find_root(__file__) / "params.yaml", changes)


def main(argv: list[str] | None = None) -> None:
    options, params = arguments(argv)
    torch.set_num_threads(options.threads)
    network, train = params.network, params.train
    print(
        f"{network.backbone}, {network.image_size} px, batches of {train.batch_size}, {train.precision}, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        setting = make_setting(options, params, Path(scratch))
        for pictures in sorted({0, train.photometric_batch}):  # the leaner one first: peaks never fall
            report(dataclasses.replace(setting, train=dataclasses.replace(train, photometric_batch=pictures)))
        if options.profile_of_step:
            print(setting.profile(options.profile_of_step))


if __name__ == "__main__":
    main()
