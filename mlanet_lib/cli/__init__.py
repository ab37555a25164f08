"""The command `mlanet`."""
