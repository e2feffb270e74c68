"""A request and its response, as the door sees them: complete, and free of HTTP's framing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from cw.errors import CwError

Body = bytes | bytearray | memoryview


@attrs.frozen(kw_only=True)
class HttpRequest:
    """One whole request.

    Attributes:
        path: Split at its slashes and unquoted, without the query: ``("v2", "models", "m")``.
        headers: By their lower-case names; of repeated ones the last.
        body: Decoded from any content-encoding.
        arrival_ns: When its last byte had come, on this process's clock.
    """

    method: str
    path: tuple[str, ...]
    headers: Mapping[str, str]
    body: Body = b""
    arrival_ns: int


@attrs.frozen(kw_only=True)
class HttpResponse:
    """One whole response; the pieces of its body are written one after another, uncopied."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: Sequence[Body] = ()

    @property
    def body_bytes(self) -> int:
        """The length of the body."""
        return sum(len(piece) for piece in self.body)


class HttpError(CwError):
    """A request that gets an error for an answer.

    Args:
        status: Of HTTP.
        message: What was expected, what came, what to do.
        more: Further members of the body.
        retry_after_s: When to come again, if that is known.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        retry_after_s: int | None = None,
        **more: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.more = more

    def response(self) -> HttpResponse:
        """Say it as the protocol does: a JSON object with the member ``error``."""
        headers: list[tuple[str, str]] = []
        if self.retry_after_s is not None:
            headers.append(("retry-after", str(self.retry_after_s)))
        return json_response({"error": str(self)} | self.more, status=self.status, headers=headers)


def json_response(
    value: Any, *, status: int = 200, headers: Sequence[tuple[str, str]] = ()
) -> HttpResponse:
    """Answer with JSON."""
    return HttpResponse(
        status=status,
        headers=(("content-type", "application/json"), *headers),
        body=(json.dumps(value, separators=(",", ":")).encode(),),
    )
