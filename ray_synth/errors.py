"""What can go wrong, as two types: the caller's input (exit 2) and the work itself (exit 1)."""


class InputError(ValueError):
    """The input is wrong. The message says what was received, what is allowed and what to type."""


class WorkError(RuntimeError):
    """The input was right and the work failed. What was finished is kept; the next start continues."""
