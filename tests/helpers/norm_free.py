"""python norm_free.py MODULE ARGUMENTS: runs a module of the library without batch norms.

Each sample is normalised by itself instead. Then several processes on CPUs compute what one does: a batch norm takes
the statistics of a process's own rows there.
"""

import runpy
import sys

from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F


def normalised(norm, x):
    return F.group_norm(x, 1, norm.weight, norm.bias, norm.eps)


def replacements():
    """(class, its new `forward`)."""
    yield nn.BatchNorm2d, normalised
    yield BatchNormAct2d, lambda norm, x: norm.act(norm.drop(normalised(norm, x)))


if __name__ == "__main__":
    for kind, forward in replacements():
        kind.forward = forward
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
