"""The one error that a person can cause."""


class UserError(Exception):
    """A mistake that the user can mend: shown as one line, without traceback.

    The message names the value that was met and the remedy. Everything else is a bug and shows all.
    """
