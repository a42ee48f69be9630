"""How an engine is told which of its adapters a request is for: by a number, in llama.cpp's field ``lora``."""

import json

from slm_operator.gateway.directory import Endpoint, Service
from slm_operator.gateway.refusal import no_such_model


def choose_adapter(body: bytes, endpoint: Endpoint, service: Service) -> bytes:
    """The body of a request for the service as the engine takes it; only the field is added.

    Raises Refusal where the engine lacks the adapter, which was taken away while the request waited. The field is never
    left out where there are adapters: without it llama.cpp answers from what it has cached with another one.
    """
    if not endpoint.adapters and not service.adapter:
        return body
    if service.adapter and service.adapter not in endpoint.adapters:
        raise no_such_model(service.model)
    number, scale = (endpoint.adapters.index(service.adapter), 1.0) if service.adapter else (0, 0.0)
    begin = body.index(b"{") + 1
    return b'%b"lora":%b,%b' % (body[:begin], json.dumps([{"id": number, "scale": scale}]).encode(), body[begin:])
