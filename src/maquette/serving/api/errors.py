"""Errors of the API: one JSON object, as OpenAI's, whatever went wrong.

{"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": null}}
"""

import json
import math
from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""types of errors by status; others are invalid_request_error below 500, server_error from there on"""
JSON_TYPE = b"application/json"


class ApiError(Exception):
    """An error that a client is told of.

    status: HTTP status. message: one line. code: word for programs. param: field of the request that is
    wrong. retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the body has them."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": " ".join(self.message.split()),
                "type": TYPES.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Header fields of the response."""
        if self.retry_after is not None:
            return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def encoded(content: Any) -> bytes:
    """Content as JSON in UTF-8; half a surrogate pair is written as a question mark."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def internal() -> ApiError:
    """The error of a defect; its traceback is in the server's log alone."""
    return ApiError(500, "the server made a mistake; its log says more", code="internal_error")
