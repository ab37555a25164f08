"""Samples of data sets and of synthetic faces, and the training arrays that are made of them."""
