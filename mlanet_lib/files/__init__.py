"""Reading and writing files: atomic, size-checked, never unpickled."""
