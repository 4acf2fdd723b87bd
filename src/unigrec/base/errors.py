"""Errors that a person can act on, and the exit codes that scripts can act on."""

EXIT_OK = 0
EXIT_REFUSED = 1  # a gate said no
EXIT_BAD_INPUT = 2  # the user's input, params or environment is wrong
EXIT_INVALID_DATA = 3  # validation stopped the pipeline


class UnigrecError(Exception):
    """What was wrong, where, and what to do. The command line prints it without a traceback."""

    exit_code = EXIT_BAD_INPUT


class InvalidDataError(UnigrecError):
    """The data was read, but does not meet the expectations in params.yaml."""

    exit_code = EXIT_INVALID_DATA


class TrainingError(UnigrecError):
    """Training met a value it must not go on from (a loss that is not finite, a stale peer)."""


class BusyError(UnigrecError):
    """Another process holds the lock."""
