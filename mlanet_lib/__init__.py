"""mlanet: Hierarchical MLANet (arXiv 2509.10024): 3D face reconstruction from single images, a reproducible study."""

__version__ = "0.1.0"
