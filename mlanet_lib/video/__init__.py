"""Faces of a video: `clip` reads and writes frames, `tracking` follows faces, `faces` gives each one identity,
`smoothing` smooths over time, `output` writes the files."""
