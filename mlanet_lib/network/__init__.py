"""The network: backbone, attention at several levels, fusion and heads; and its checkpoints."""

from mlanet_lib.network import quick_timm as quick_timm  # before whatever imports timm
from mlanet_lib.network.mlanet import MLANet as MLANet
from mlanet_lib.network.mlanet import NetworkConfig as NetworkConfig
