"""mlanet: Hierarchical MLANet, multi-level attention for 3D face reconstruction from single images (arXiv 2509.10024)."""

__version__ = "0.1.0"
