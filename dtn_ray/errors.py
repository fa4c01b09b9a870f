"""The one error that means: what the user gave is wrong, and the message says what to do."""


class UserError(ValueError):
    """Bad input. The message names the file or setting, what is wrong with it and what to do; jobs print it alone."""
