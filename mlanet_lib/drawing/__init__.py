"""Pictures and textures of reconstructed faces."""
