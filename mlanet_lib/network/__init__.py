"""The network: `mlanet` is MLANet with backbone, fusion and heads, `attention` its attention and gates, `checkpoint`
its files."""

from mlanet_lib.network import quick_timm as quick_timm  # before whatever imports timm
from mlanet_lib.network.mlanet import MLANet as MLANet
from mlanet_lib.network.mlanet import NetworkConfig as NetworkConfig
