"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake in what the user gave; the message says what, where and what to do.

    The command line prints it as one line and exits with 2; it never shows a traceback.
    """
