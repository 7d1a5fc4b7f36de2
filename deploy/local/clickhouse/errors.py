"""ClickHouse errors as the HTTP interface tells them: a code, a message, an HTTP status."""

from __future__ import annotations

import re

NOT_IMPLEMENTED, SYNTAX_ERROR, BAD_ARGUMENTS = 48, 62, 36
SESSION_NOT_FOUND, SESSION_IS_LOCKED = 372, 373
UNKNOWN = 1002

_CODE = re.compile(r"Code: (\d+)\. ")
# what ClickHouse's HTTPHandler answers; every other code is a 500
_STATUS = {
    400: (6, 26, 27, 36, 38, 41, 53, 62, 69, 70, 72, 86, 115, 117, 131, 354, 372, 377, 395, 407, 456, 457, 691),
    403: (164, 291, 497),
    404: (10, 16, 46, 47, 50, 57, 60, 63, 81, 82),
    408: (159,),
    413: (223,),
    501: (48,),
    503: (76, 209),
}
_STATUS_OF = {code: status for status, codes in _STATUS.items() for code in codes}


class EngineError(Exception):
    """An error of the engine or of the request, with ClickHouse's code and its whole message (`Code: N. DB::…`)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status that a ClickHouse server sends with this code."""
        return _STATUS_OF.get(self.code, 500)


def refused(code: int, name: str, message: str) -> EngineError:
    """Return an error of our own in ClickHouse's words."""
    return EngineError(code, f"Code: {code}. DB::Exception: {message} ({name})")


def from_engine(error: Exception) -> EngineError:
    """Read the code out of what chdb raised; what it puts in front of `Code:` is left out."""
    text = str(error).strip()
    found = _CODE.search(text)
    if found is None:
        return EngineError(
            UNKNOWN, f"Code: {UNKNOWN}. DB::Exception: {text or type(error).__name__} (UNKNOWN_EXCEPTION)"
        )
    return EngineError(int(found[1]), text[found.start() :])
