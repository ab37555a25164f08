"""Readers of the published data sets, one module each."""
