"""Parameters, profiles and the runner of notebooks."""
