"""Where a `MorphableModel` comes from: one module a source."""
