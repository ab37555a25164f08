"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user gave is wrong (a file, a parameter, a folder): its text is one clear line.

    The command line and the notebook runner print that line on stderr and exit with code 2.
    """
