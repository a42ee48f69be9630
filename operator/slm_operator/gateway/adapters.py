"""How an engine is told which of its adapters a request is for: by a number, in llama.cpp's field ``lora``."""

import json

from slm_operator.gateway.directory import Endpoint


def choose_adapter(body: bytes, endpoint: Endpoint, adapter: str) -> bytes:
    """The body of a request as the engine takes it, which holds the adapter, if one is picked; only the field is added.

    It is never left out where there are adapters: without it llama.cpp answers from what it has cached with another.
    """
    if not endpoint.adapters:
        return body
    number, scale = (endpoint.adapters.index(adapter), 1.0) if adapter else (0, 0.0)
    begin = body.index(b"{") + 1
    return b'%b"lora":%b,%b' % (body[:begin], json.dumps([{"id": number, "scale": scale}]).encode(), body[begin:])
