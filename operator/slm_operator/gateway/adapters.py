"""How an engine is told which of its adapters a request is for: by the model's name, or by a number.

vLLM takes an adapter for a model of its own. llama.cpp has the field ``lora``.
"""

import json

from slm_operator.core.runtimes.order import name_adapter
from slm_operator.gateway.asking import Ask
from slm_operator.gateway.directory import Endpoint, Service


def body_for(ask: Ask, service: Service, endpoint: Endpoint) -> bytes:
    """The body of a request as the engine takes it, which holds the adapter, if one is picked."""
    if endpoint.by_name and service.adapter:
        return ask.body_for(name_adapter(service.served_name, service.adapter))
    body = ask.body_for(service.served_name)
    return _number_adapter(body, endpoint, service.adapter) if endpoint.numbers_adapters else body


def _number_adapter(body: bytes, endpoint: Endpoint, adapter: str) -> bytes:
    """The field is never left out where there are adapters: llama.cpp would answer from what another has cached."""
    number, scale = (endpoint.adapters.index(adapter), 1.0) if adapter else (0, 0.0)
    begin = body.index(b"{") + 1
    return b'%b"lora":%b,%b' % (body[:begin], json.dumps([{"id": number, "scale": scale}]).encode(), body[begin:])
