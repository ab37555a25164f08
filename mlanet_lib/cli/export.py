"""The verb `mlanet export`: a trained encoder as one file for other programs. Heavy imports are in the action."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from mlanet_lib.cli.options import a_path
from mlanet_lib.files import outputs


def add_options(verb: ArgumentParser) -> None:
    """Add the options to the parser of `export`."""
    verb.add_argument("--weights", default="auto", metavar="W", help="path or shipped name (default: ict)")
    verb.add_argument("--out", required=True, type=a_path, metavar="FILE", help="FILE.onnx, or FILE.pt2 (torch.export)")
    verb.set_defaults(run=_export)


def _export(options: Namespace) -> None:
    outputs.check_target(options.out, [Path(options.weights)])
    from mlanet_lib.predictor import Predictor
    from mlanet_lib.predictor.encoder_export import check_target, export_encoder

    check_target(options.out)
    predictor = Predictor.load(options.weights)
    export_encoder(predictor.network, predictor.model, options.out, predictor.weights)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {predictor.weights}, crops of {predictor.image_size} px, {size:.1f} MB")
