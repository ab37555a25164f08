"""Samples of real data sets and of synthetic faces, and the training arrays that are made of them.

`sample` is one face with its labels. `sets` reads the published layouts, `synthetic` draws faces; `sources` turns real
data sets into training splits with `annotations` and `packing`; `arrays` is the format of these splits, and `manifest`
records what a study was made from. `annotate` makes a data set of photos without labels.
"""
