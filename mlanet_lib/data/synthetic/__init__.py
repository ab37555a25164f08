"""Synthetic faces in synthetic scenes, and the stand-ins for data sets that are not here."""
