"""Figures, interactive views and the report."""
