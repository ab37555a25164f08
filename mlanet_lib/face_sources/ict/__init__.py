"""The default face model `ict`: the head of ICT-FaceKit with a skin learned from photos. `build` makes it; the other
modules are its steps (mesh, mouth and lids, eyes, skin, texture map) and the readers of its sources."""
