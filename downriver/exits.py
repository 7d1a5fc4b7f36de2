"""Exit codes of every command, in one place, so that scripts and supervisors can tell the ends apart."""

from enum import IntEnum


class Exit(IntEnum):
    """What a process says when it ends."""

    OK = 0
    FAILED = 1
    """The command ran and the answer is bad: not equal, late, unhealthy, or an error it could not get past."""
    BAD_INPUT = 2
    """Settings, arguments or files are wrong; nothing was started."""
    SERVER_AWAY = 3
    """A server stayed away longer than the limit that was set."""
    STALLED = 4
    """The watchdog ended a worker that had lag and made no progress, or whose event loop hung."""
    INTERRUPTED = 130
    """Ctrl-C."""


class DownriverError(Exception):
    """An error told to a person: it names the thing, the value and the way out. Printed without a traceback."""

    exit_code: Exit = Exit.FAILED


class BadInput(DownriverError):
    """Something the user wrote is wrong: a setting, an argument, a file."""

    exit_code = Exit.BAD_INPUT


class ServerAway(DownriverError):
    """A server did not answer within the limit that was set."""

    exit_code = Exit.SERVER_AWAY
