"""The study around the library: `params` are its typed parameters, `profiles` rewrites params.yaml, `runs` lists the
trainings; `notebook_runner` executes notebooks, `notebook_file` reads and `notebook_html` shows them."""
