"""Errors as OpenAI's clients understand them. A client learns what was wrong with its request, and nothing of us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgesink.errors import BadOption

TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


@dataclass
class ApiError(Exception):
    """A request that is refused, or an answer that could not be given."""

    message: str
    status: int = 400
    param: str | None = None  # the field that is wrong
    code: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refused(error: BadOption, param: str | None = None) -> ApiError:
    """What the client can change, said in our words."""
    return ApiError(str(error), 400, param)


def internal() -> ApiError:
    """Of what is a fault of ours: no traceback and no path leaves the machine."""
    return ApiError("The server failed to answer. Its log says why.", 500, code="internal_error")
