"""The study around the library: `params` are its typed parameters, `profiles` rewrites params.yaml, `runs` lists the
trainings, `notebook_runner` and `notebook_html` execute notebooks and turn them into pages."""
