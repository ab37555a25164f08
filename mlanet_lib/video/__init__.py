"""Faces of a video: clip, tracking, smoothing, output."""
