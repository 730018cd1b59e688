"""The one error that a person at the command line can mend."""


class UserError(Exception):
    """A mistake in what was asked, told in one line: what is wrong, and what to do next.

    The command line prints it without a traceback and exits with code 2.  It is not a
    `ValueError`: functions of the library raise that for arguments that no caller should pass.
    """
