"""What happened to one request: metrics and audit are made from it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from slm_operator.gateway.directory import Service


@dataclass(slots=True)
class Record:
    """One request from its arrival to its last byte. Times are the event loop's, in seconds."""

    request_id: str
    route: str
    arrived: float
    caller: str = ""
    model: str = ""
    """What the client asked for."""
    service: Service | None = None
    endpoint: str = ""
    digest: str = ""
    """Of the weights that answered."""
    canary: bool = False
    """Whether that engine is being tried."""
    failed: set[bool] = field(default_factory=set)
    """Of the engines that failed it before, whether each was being tried."""
    body_bytes: int = 0
    """Of the request, as far as it has come."""
    stream: bool = False
    status: int = 0
    """Status of the answer; 0: the client left before there was one."""
    verdict: str = ""
    """``ok``, ``cancelled``, ``truncated``, or the code of the refusal."""
    attempts: int = 0
    admitted: float = 0.0
    """When an engine had a slot for it the last time."""
    first_byte: float = 0.0
    """When the first byte of the answer went to the client."""
    ended: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """The engine gave no counts: a quarter of the body's bytes, and the events of the stream."""


Observer = Callable[[Record], None]
"""Told of each request once, when it has ended."""
