"""Readers and writers of the data sets, in their published layouts."""
