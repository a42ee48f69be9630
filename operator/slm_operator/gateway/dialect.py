"""The API that a client speaks. Engines speak OpenAI's, so the others are made from it."""

from collections.abc import Mapping

from slm_operator.gateway.refusal import Refusal

EVENT_STREAM = "text/event-stream"


class Dialect:
    """OpenAI's API: what engines say is passed on as it is."""

    stream_headers: Mapping[str, str] = {"content-type": EVENT_STREAM, "cache-control": "no-cache"}
    """Of a stream that begins before the engine's own, names in lower case."""

    @property
    def keep_alive(self) -> bytes:
        """Says in a stream that nothing has happened yet.

        A line that begins with a colon is a comment, which clients leave out (HTML standard, 9.2.6).
        """
        return b": waiting for an engine\n\n"

    @property
    def broken(self) -> bool:
        """Whether the client has been told in the stream that the engine failed, so that nothing more is for it."""
        return False

    def error(self, refusal: Refusal) -> bytes:
        """The body of an error of the gateway's own."""
        return refusal.body()

    def engine_error(self, status: int, body: bytes) -> bytes:  # noqa: ARG002
        """The body of an error that an engine gave."""
        return body

    def failure(self, refusal: Refusal) -> bytes:
        """The error as the last piece of a stream."""
        return b"event: error\ndata: " + self.error(refusal) + b"\n\n"

    def whole(self, body: bytes) -> bytes:
        """An engine's whole answer; raises Refusal where it cannot be translated."""
        return body

    def piece(self, piece: bytes) -> bytes:
        """A piece of an engine's stream, cut anywhere; nothing may come of it yet."""
        return piece

    def finish(self) -> bytes:
        """What comes after the engine's last piece."""
        return b""

    def headers(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """An answer's headers from the engine's, names in lower case."""
        return given


class Anthropic(Dialect):
    """Anthropic's API: engines that have /v1/messages answer it themselves, so that only our own errors differ."""

    def error(self, refusal: Refusal) -> bytes:
        """See ``Dialect``."""
        return refusal.body(anthropic=True)


OPENAI, ANTHROPIC = Dialect(), Anthropic()
