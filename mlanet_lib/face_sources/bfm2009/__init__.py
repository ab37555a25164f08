"""The Basel Face Model 2009 in 3DDFA's two forms: which files there are, its raw form, and its conversion."""
