"""The paths of Ollama's API: which of them an engine answers, and which the gateway itself."""

import json
from http import HTTPStatus

from aiohttp import web

from slm_operator.gateway.access import Caller
from slm_operator.gateway.asking import read_ask
from slm_operator.gateway.desk import Desk
from slm_operator.gateway.directory import Service
from slm_operator.gateway.headers import own_headers
from slm_operator.gateway.ollama import CATALOG_PATHS, ENGINE_PATHS, JSON, answer_catalog
from slm_operator.gateway.ollama_answer import build_loaded
from slm_operator.gateway.ollama_catalog import Served
from slm_operator.gateway.ollama_dialect import Ollama, describe_served, now
from slm_operator.gateway.ollama_errors import OllamaError, write_json
from slm_operator.gateway.ollama_request import Call, find_model, parse_document, served_name, translate_request
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal
from slm_operator.gateway.reply import whole

ROOT, PREFIX = "/", "/api/"
PUBLIC = frozenset({ROOT, "/api/version"})
"""They say that this is Ollama's API, and nothing else: the command asks for them before it sends any key."""
ABOUT_ONE = frozenset({"/api/show", "/api/pull"})
ROUTES = ENGINE_PATHS | CATALOG_PATHS
"""Paths that metrics and audit call by their names."""


class OllamaFront:
    """Answers requests of Ollama's clients."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def forward(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        """A request to an engine; raises Refusal."""
        self._desk.check()
        caller = await self._desk.identify(request, record)
        body = await self._desk.read(request, record)
        try:
            document = parse_document(body)
            record.model = find_model(document)
            service = record.service = await self._desk.find(served_name(record.model), caller)
            call = translate_request(record.route, document, service.about.context_size)
        except OllamaError as problem:
            raise _refusal(problem) from problem
        record.stream = call.stream
        if not call.path:
            return _loaded(call, record)
        ask = read_ask(json.dumps(call.body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return await self._desk.carry(request, record, caller, ask, call.path, Ollama(call, record))

    async def answer(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        """A request that no engine answers; raises Refusal."""
        method, path = request.method, request.raw_path.partition("?")[0]
        served: list[Served] = []
        body = b""
        if path not in PUBLIC:
            self._desk.check()
            caller = await self._desk.identify(request, record)
            body = await self._desk.read(request, record) if method == "POST" else b""
            served = await self._served(path, body, caller, record)
        answer = answer_catalog(method, path, body, served)
        return whole(answer.status, answer.body, own_headers(record.request_id, answer.content_type))

    async def _served(self, path: str, body: bytes, caller: Caller, record: Record) -> list[Served]:
        if path not in ABOUT_ONE:
            services = await self._desk.allowed(caller)
            return [describe_served(each, _name_for(each, caller)) for each in services]
        try:
            name = record.model = find_model(parse_document(body))
            return [describe_served(await self._desk.find(served_name(name), caller), served_name(name))]
        except OllamaError as problem:
            raise _refusal(problem) from problem
        except Refusal as problem:
            if problem.status != HTTPStatus.NOT_FOUND:
                raise
            return []  # The sentence about it depends on the path.


def _name_for(service: Service, caller: Caller) -> str:
    if service.namespace != caller.namespace:
        return service.model
    return service.model.removeprefix(f"{service.namespace}/")


def _loaded(call: Call, record: Record) -> web.StreamResponse:
    return whole(HTTPStatus.OK, write_json(build_loaded(call, now())), own_headers(record.request_id, JSON))


def _refusal(problem: OllamaError) -> Refusal:
    return Refusal(problem.status, "invalid_request", str(problem))
