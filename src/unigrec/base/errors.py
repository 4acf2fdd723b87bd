"""Errors that a person can act on, and exit codes for scripts."""

EXIT_OK = 0
EXIT_REFUSED = 1  # a gate said no
EXIT_BAD_INPUT = 2  # the user's input, params or environment is wrong
EXIT_INVALID_DATA = 3  # validation stopped the pipeline
EXIT_NO_READER = 141  # nobody reads the output any more, as after `| head`; a shell says the same of other programs
EXIT_BROKEN = 70  # a defect of the program, with a traceback; not Python's own 1, which means refused here


class UnigrecError(Exception):
    """An error for the user: what was wrong, where, and what to do. The command line prints it without a traceback."""

    exit_code = EXIT_BAD_INPUT


class InvalidDataError(UnigrecError):
    """The data was read, but breaks an expectation of params.yaml."""

    exit_code = EXIT_INVALID_DATA


class TrainingError(UnigrecError):
    """Training cannot continue (a loss that is not finite, a stale peer)."""


class BusyError(UnigrecError):
    """Another process holds the lock."""
