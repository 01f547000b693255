"""What the endpoint answers when it does not answer: errors in the form of OpenAI's API."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

BUSY_SECONDS = 1
"""Seconds after which a client that was too many may ask again."""

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
"""Type of an error by its status."""


class Refused(Exception):
    """A request that is not answered: the status, a sentence, and the key that is wrong."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    @property
    def form(self) -> dict[str, object]:
        """The error as clients expect it."""
        return {
            "error": {
                "message": str(self),
                "type": KINDS.get(self.status, "server_error"),
                "param": self.param,
                "code": self.status,
            }
        }


def refuse(refused: Refused) -> Response:
    """Return the response that tells a client why it gets no answer."""
    headers = {"retry-after": str(BUSY_SECONDS)} if refused.status in (429, 503) else {}
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(refused.form),
        status_code=refused.status,
        headers=headers,
        media_type="application/json",
    )
