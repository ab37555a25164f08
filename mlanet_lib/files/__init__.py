"""Reading and writing files: `atomic` writes whole files or none; readers check sizes and never unpickle (`npz`, `mat`,
`obj`, `pictures`, `archive`, `folders`); `records`, `outputs` and `project` hold JSON results, own files and the
project's folder."""
