"""What one gateway accepts, holds and waits for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one gateway process; every one of them ends in an answer that names it."""

    body_bytes: int = 32 * 2**20
    """Largest request body: a million tokens of text, or a few images."""
    body_seconds: float = 30.0
    """Longest time in which a client must have sent its body."""
    bodies_bytes: int = 512 * 2**20
    """Most bytes that the bodies of all requests under way have together, those that still arrive among them; more get
    503. Without it a single key could fill the memory with requests that never come to their end."""
    answer_bytes: int = 256 * 2**20
    """Largest answer that is not a stream; it is read whole before its first byte is passed on."""
    header_bytes: int = 16 * 2**10
    """Longest request line and longest header, each: service-account tokens take up to 2 KiB."""
    header_count: int = 64
    """Most headers of one request."""
    idle_seconds: float = 75.0
    """After so long without a complete request a connection is closed, however slowly its headers come."""
    connections: int = 20_000
    """Most connections of clients; more are closed as soon as they are accepted."""
    unread_seconds: float = 60.0
    """A client that takes nothing of what is there for it for so long is hung up on, since its answer holds an engine's
    slot; nginx's send_timeout is as long."""
    queue_length: int = 1000
    """Most requests per service that wait, for a slot or for an engine; more get 429."""
    queue_bytes: int = 256 * 2**20
    """Most bytes of bodies per service that wait; more get 429."""
    hold_seconds: float = 300.0
    """Longest wait for a slot, or for an engine that starts: pulling an image and loading weights takes minutes."""
    notice_seconds: float = 1.0
    """Longest wait for word that a stopped or stalled service is none any more, before a request to it is refused."""
    keep_alive_seconds: float = 10.0
    """A stream that has waited so long gets a comment, and one more each time: proxies close what is silent for 30."""
    connect_seconds: float = 2.0
    """Longest time to open a connection to an engine, which is in the same cluster."""
    silence_seconds: float = 600.0
    """Longest silence of an engine, before its answer begins (all of a long prompt) and between two pieces of it."""
    total_seconds: float = 3600.0
    """Longest time from an engine's receiving a request to the last byte of its answer."""
    cooling_seconds: float = 0.5
    """For so long an engine that refused a connection or answered 503 is passed over."""
    resends: int = 2
    """How often a request is sent again that an engine had received whole when its connection broke: one that makes
    engines crash must not be tried on all of them. Engines that did not take it at all do not count."""
    drain_seconds: float = 60.0
    """How long answers under way may go on after the gateway was told to end."""
    retry_after_seconds: int = 5
    """What clients that are refused for now are told to wait."""
