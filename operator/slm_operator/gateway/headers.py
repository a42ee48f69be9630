"""Which headers pass, in each direction: lists of those that may, so that hop-by-hop headers and secrets do not."""

import re
from collections.abc import Mapping
from itertools import count
from secrets import token_hex

TO_ENGINE = (
    ("accept", "Accept"),
    ("traceparent", "traceparent"),
    ("tracestate", "tracestate"),
    ("anthropic-version", "anthropic-version"),
    ("anthropic-beta", "anthropic-beta"),
)
"""Never Authorization, cookies or anything that says who the client is."""
TO_CLIENT = (
    ("cache-control", "Cache-Control"),
    ("retry-after", "Retry-After"),
    ("x-accel-buffering", "X-Accel-Buffering"),
    ("x-slm-left-out", "X-Slm-Left-Out"),
)
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""What may stand in a header and a log line as it is."""
JSON = "application/json"
SERVER = "slm-gateway"
"""Without versions of what it is made of."""


class RequestIds:
    """Ids of requests that bring none: unique to this process by a random beginning, counted after it."""

    def __init__(self) -> None:
        self._start = token_hex(8)
        self._count = count(1)

    def of(self, headers: Mapping[str, str]) -> str:
        """The client's id where it is fit to be written anywhere, else a new one."""
        given = headers.get("X-Request-Id")
        if given is not None and REQUEST_ID.fullmatch(given):
            return given
        return f"{self._start}-{next(self._count):x}"


def headers_to_engine(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    """Headers of the request that the engine gets."""
    passed = {"Content-Type": JSON, "X-Request-Id": request_id}
    for name, written in TO_ENGINE:
        value = headers.get(name)
        if value is not None:
            passed[written] = value
    return passed


def own_headers(request_id: str, content_type: str = JSON) -> dict[str, str]:
    """What every answer says, whoever gave it."""
    return {"Content-Type": content_type, "X-Request-Id": request_id, "Server": SERVER}


def headers_to_client(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    """Headers of the answer that the client gets; those of the engine come in lower case."""
    passed = own_headers(request_id, headers.get("content-type", JSON))
    for name, written in TO_CLIENT:
        value = headers.get(name)
        if value is not None:
            passed[written] = value
    return passed
