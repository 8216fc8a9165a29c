"""The base of errors that people are told in one line: the command line prints their message and no traceback."""


class PlainError(Exception):
    """Something is not as it must be; the message says what, and what to do."""
