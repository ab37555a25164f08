"""Cameras, light, alignment, surfaces and crops."""
