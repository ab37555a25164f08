"""The command `mlanet`: `__main__` builds its parser, and each group of verbs has a module (`reconstruct`, `evaluate`,
`train`, `export`, `data`, `face_model`); `options` holds what they share."""
