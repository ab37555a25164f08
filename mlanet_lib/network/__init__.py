"""The network: `mlanet` is MLANet with backbone, fusion and heads, `attention` its attention and gates, `checkpoint`
its files. timm is imported where a network is made, so that reading parameters costs nothing."""

from mlanet_lib.network.mlanet import MLANet as MLANet
from mlanet_lib.network.mlanet import NetworkConfig as NetworkConfig
