"""What the stand-in answers when it says no, in Stripe's words and fields."""

from typing import Any, Literal

ErrorType = Literal["api_error", "idempotency_error", "invalid_request_error"]


class RefusalError(Exception):
    """A request that Stripe would refuse; never leaves the stand-in."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "",
        param: str = "",
        kind: ErrorType = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, code=code, param=param, kind=kind)


def error_body(
    message: str,
    *,
    code: str = "",
    param: str = "",
    kind: ErrorType = "invalid_request_error",
) -> dict[str, Any]:
    """The JSON of an error answer."""
    error = {"type": kind, "message": message, "code": code, "param": param}
    return {"error": {name: value for name, value in error.items() if value}}
