"""Attention at one level of the backbone, and the gate by which a coarser level steers the next finer one.

Channel and spatial attention are CBAM's (Woo et al. 2018, arXiv:1807.06521), "se" is squeeze and excitation (Hu et al.
2018, arXiv:1709.01507), "eca" its light form (Wang et al. 2020, arXiv:1910.03151), all in timm's modules. It is not
known which of them Hierarchical MLANet uses (its abstract says only "multi-level attention"), so the kind is an axis of
the ablation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlanet_lib.errors import UserError

ATTENTION_KINDS = ("none", "channel", "spatial", "channel_spatial", "se", "eca")
FUSION_KINDS = ("none", "hierarchical", "concatenate", "hierarchical_concatenate")


def level_attention(channels: int, kind: str) -> nn.Module:
    """The attention of one level: (B, channels, H, W) -> (B, channels, H, W), channel first, then spatial.

    Channel: x * sigmoid(M(mean_hw x) + M(max_hw x)), M an MLP with channels / 16 (at least 8) hidden units.
    Spatial: x * sigmoid(BN(conv7x7([mean_c x, max_c x]))).
    se: x * sigmoid(M(mean_hw x)); eca: x * sigmoid(conv1d(mean_hw x)), the convolution along the channels.
    kind: one of `ATTENTION_KINDS`, "none" being the identity; another word is a UserError.
    """
    from timm.layers import EcaModule, SEModule
    from timm.layers.cbam import ChannelAttn, SpatialAttn

    if kind not in ATTENTION_KINDS:
        raise UserError(f"unknown attention {kind!r}; choose one of {', '.join(ATTENTION_KINDS)}")
    if kind == "eca":
        return EcaModule(channels)
    if kind == "se":
        return SEModule(channels, rd_channels=max(8, channels // 16))
    steps: list[nn.Module] = []
    if kind.startswith("channel"):
        steps.append(ChannelAttn(channels, rd_channels=max(8, channels // 16)))
    if kind.endswith("spatial"):
        steps.append(SpatialAttn())
    return nn.Sequential(*steps)


class CoarseGate(nn.Module):
    """Hierarchical fusion of two neighbouring levels: the coarser one decides where the finer one matters.

    fused = finer * 2 sigmoid(upsample(W coarser)), with W a 1x1 convolution that starts at zero: at the start the
    gate is 1 everywhere and fusion changes nothing. An assumption of this project, not the paper's equation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(width, width, 1)
        for parameter in self.weigh.parameters():
            nn.init.zeros_(parameter)

    def forward(self, finer: Tensor, coarser: Tensor) -> Tensor:
        """finer: (B, width, H, W), coarser: (B, width, h, w), of the next coarser level. Returns (B, width, H, W)."""
        gate = F.interpolate(self.weigh(coarser), size=finer.shape[-2:], mode="bilinear", align_corners=False)
        return finer * (2 * torch.sigmoid(gate))


def energy_map(features: Tensor) -> Tensor:
    """Where a level looks: the mean over channels of the squared features, scaled to a maximum of 1 per image.

    features: (B, C, H, W), after attention. Returns (B, H, W) in [0, 1] (all zero where the features are). This is
    the activation map of Zagoruyko & Komodakis 2017 (arXiv:1612.03928) and exists for every kind of attention, so
    that the maps of all variants can be laid side by side.
    """
    energy = features.float().square().mean(1)
    return energy / energy.amax((1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
