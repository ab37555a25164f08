"""Geometry without a face model: `camera`, `lighting`, `alignment`, `surface`, `mesh`, `crops`; and `compiled` and
`device` for fast kernels and constant tensors."""
