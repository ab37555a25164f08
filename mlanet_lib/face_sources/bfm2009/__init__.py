"""The Basel Face Model 2009 (licensed): its files, its own arrays, and the conversion."""
