"""Imports timm without torch.compile's compiler, in about half of the time: every command begins with it.

Importing timm reaches torch._dynamo in two places: torchvision's RoI operators take a function from it, and timm marks
parts of its NaFlex models (no backbones here: all of one stride) as not to be compiled. While timm is imported, that
function stands in for its module, and the mark does nothing, as where torch has no compiler.
"""

import importlib
import sys
from types import ModuleType
from unittest import mock

import torch


def _is_compile_supported(device_type: torch.types.Device) -> bool:
    return importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type)


if "torch._dynamo" not in sys.modules and "timm" not in sys.modules:
    _utils = ModuleType("torch._dynamo.utils")
    _utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_utils.__name__] = _utils
    try:
        with mock.patch.object(torch.compiler, "disable", lambda function: function):
            importlib.import_module("timm")
    finally:
        del sys.modules[_utils.__name__]
