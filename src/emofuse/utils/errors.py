"""The exception for errors that users can fix."""


class UserError(Exception):
    """An error in the user's input or environment; the message says what, where, and what to do.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """
