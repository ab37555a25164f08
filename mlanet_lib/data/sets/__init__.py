"""Readers of data sets, one module for each published layout: AFLW2000-3D, 300W-LP, MICC Florence, head scans,
landmarked crops, and folders of photos."""
