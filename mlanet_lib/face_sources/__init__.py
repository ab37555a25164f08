"""Where face models come from: makers and converters."""
