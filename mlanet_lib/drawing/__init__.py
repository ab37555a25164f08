"""Pictures of reconstructed faces (`views`) and textures of their meshes (`textures`), as arrays."""
