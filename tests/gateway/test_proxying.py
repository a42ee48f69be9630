"""Requests through the gateway to engines and back, over real sockets."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from slm_operator.gateway.limits import Limits
from slm_operator.gateway.reply import Stream
from slm_operator.gateway.usage import StreamUsage
from tests.gateway.test_attacks import exchange
from tests.support.gateway import CHAT, chat, open_gateway, until
from tests.support.gateway_attacks import asking
from tests.support.stub_engine import StubEngine

NO_JSON = "The body must be one JSON object, in UTF-8, and it is no JSON: "


async def collect(answer: aiohttp.ClientResponse, pieces: list[bytes]) -> None:
    """What comes, also when it breaks off."""
    async for piece in answer.content.iter_any():
        pieces.append(piece)  # noqa: PERF401 (a comprehension keeps nothing when it breaks off)


async def test_an_answer_comes_back_and_the_engine_gets_the_bytes_as_they_were_sent() -> None:
    engine = StubEngine()
    async with open_gateway(engine) as door:
        sent = b'{ "model" :"default/qwen",  "messages": [], "seed": 1e2, "x": "\xc3\xa4" }'
        status, headers, answer = await door.post(sent, headers={"X-Request-Id": "mine-1"})
    assert (status, answer["by"], headers["X-Request-Id"]) == (200, "engine-0", "mine-1")
    assert engine.seen[0].body == sent
    record = door.records[0]
    assert (record.verdict, record.prompt_tokens, record.completion_tokens) == ("ok", 5, 3)
    assert not record.estimated


async def test_neither_credentials_nor_cookies_nor_hop_by_hop_headers_reach_the_engine() -> None:
    engine = StubEngine()
    async with open_gateway(engine) as door:
        secret = {"Authorization": "Bearer s3cret", "Cookie": "a=s3cret", "X-Api-Key": "s3cret", "Te": "trailers"}
        hops = {"Connection": "keep-alive, X-Hop", "X-Hop": "s3cret", "Proxy-Authorization": "s3cret"}
        await door.post(chat(), headers={**secret, **hops, "traceparent": "00-1-2-01"})
    assert "s3cret" not in str(engine.seen[0].headers)
    assert engine.seen[0].headers["traceparent"] == "00-1-2-01"


async def test_the_model_is_named_to_the_engine_as_it_knows_it() -> None:
    engine = StubEngine()
    async with open_gateway(engine, aliases=("qwen:Q4_K_M", "org/qwen"), served_name="inner") as door:
        for name in ("default/qwen", "qwen", "qwen:Q4_K_M", "default/qwen:Q4_K_M", "org/qwen"):
            status, _, _ = await door.post(chat(name))
            assert status == 200, name
    assert {seen.document["model"] for seen in engine.seen} == {"inner"}


@pytest.mark.parametrize(
    "name", ["other/qwen", "qwen2", "qwen:Q8_0", "../default/qwen", "default/qwen/", "DEFAULT/QWEN"]
)
async def test_a_model_that_is_not_there_is_a_404_in_openais_shape(name: str) -> None:
    async with open_gateway(StubEngine()) as door:
        status, _, answer = await door.post(chat(name))
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert answer["error"]["message"].startswith(f"The model '{name}' does not exist or you may not use it")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", f"{NO_JSON}Expecting value, in line 1, column 1."),
        (b"[]", "The body must be one JSON object."),
        (b'{"model": "qwen"', f"{NO_JSON}Expecting ',' delimiter, in line 1, column 17."),
        (b'{"model":\n  qwen}', f"{NO_JSON}Expecting value, in line 2, column 3."),
        (b'{"model": "qwen", "x": NaN}', "The body must be one JSON object, in UTF-8."),
        (b'{"model": "\xff"}', "The body must be one JSON object, in UTF-8."),
        (b'{"model": 7}', "The field 'model' must name a model"),
        (b'{"model": "qwen", "stream": "yes"}', "The field 'stream' must be true or false."),
        (b'{"model": "qwen", "model": "other"}', "A field stands twice in the body"),
        (b'{"model": "qwen", "mod\\u0065l": "other"}', "A field stands twice in the body"),
        (b"[" * 100_000, "The body must be one JSON object, in UTF-8."),
    ],
)
async def test_a_body_that_is_no_request_is_a_400_and_no_engine_sees_it(body: bytes, message: str) -> None:
    engine = StubEngine()
    async with open_gateway(engine) as door:
        status, _, answer = await door.post(body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["message"].startswith(message)
    assert engine.seen == []


async def test_a_stream_passes_piece_by_piece_as_the_engine_makes_it() -> None:
    engine = StubEngine(tokens=4, pause_seconds=0.05)
    async with open_gateway(engine) as door:
        async with door.session.post(door.url + CHAT, json=chat(stream=True)) as answer:
            first = await answer.content.readuntil(b"\n\n")
            assert engine.working == 1, "the first token is here while the engine works on the others"
            rest = await answer.content.read()
            assert answer.headers["Content-Type"] == "text/event-stream"
        await until(lambda: bool(door.records))
    assert json.loads(first.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == "t0 "
    assert rest.endswith(b"data: [DONE]\n\n")
    record = door.records[0]
    assert (record.verdict, record.estimated, record.stream) == ("ok", True, True)
    assert record.first_byte < record.ended


async def test_a_client_that_leaves_ends_the_work_of_the_engine() -> None:
    engine = StubEngine(tokens=1000, pause_seconds=0.02)
    async with open_gateway(engine) as door:
        answer = await door.session.post(door.url + CHAT, json=chat(stream=True))
        await answer.content.readuntil(b"\n\n")
        answer.close()
        await until(lambda: engine.left == 1)
        whole = asyncio.create_task(door.post(chat()))
        await until(lambda: engine.working == 1)
        whole.cancel()
        await until(lambda: engine.left == 2)
        await until(lambda: len(door.records) == 2)
        assert door.gateway.admissions.loads()["default/qwen"][:2] == (0, 0)
    assert [record.verdict for record in door.records] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_cannot_take_a_request_is_passed_over(stream: bool) -> None:  # noqa: FBT001
    loading, refusing = StubEngine("a", loading=True), StubEngine("b")
    good = StubEngine("c")
    async with open_gateway(loading, refusing, good) as door:
        await refusing.stop()
        for number in range(6):
            data = chat(text=f"conversation {number}", stream=stream)
            async with door.session.post(door.url + CHAT, json=data) as answer:
                assert answer.status == 200
                await answer.read()
    assert len(good.seen) == 6


async def test_an_engine_that_dies_before_its_answer_is_replaced_by_another() -> None:
    dying, good = StubEngine("a", crash_before=0), StubEngine("b")
    async with open_gateway(dying, good) as door:
        for number in range(4):
            assert (await door.post(chat(text=str(number))))[0] == 200
    assert len(good.seen) == 4


async def test_a_request_that_is_tried_on_several_engines_came_once() -> None:
    engines = [StubEngine(f"e{number}", loading=number < 2) for number in range(3)]
    async with open_gateway(*engines) as door:
        assert (await door.post(chat(text="")))[2]["by"] == "e2"
        assert door.gateway.admissions.loads()["default/qwen"] == (0, 0, 1)
        await until(lambda: bool(door.records))
        assert door.records[0].attempts == 3


async def test_an_answer_that_is_too_large_is_asked_for_once() -> None:
    engines = [StubEngine(f"e{number}", answer=b"x" * 300_000) for number in range(3)]
    async with open_gateway(*engines, limits=Limits(answer_bytes=100_000)) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (502, "engine_failed")
    assert sum(len(engine.seen) for engine in engines) == 1


async def test_a_status_that_nobody_knows_is_told_in_a_stream_of_anthropics_too() -> None:
    engine = StubEngine(status=499, before_answer_seconds=0.1)
    async with (
        open_gateway(engine, limits=Limits(keep_alive_seconds=0.02)) as door,
        door.session.post(door.url + "/v1/messages", json=chat(stream=True)) as answer,
    ):
        received = await answer.read()
    assert b'event: error\ndata: {"type": "error", "error": {"type": "api_error"' in received


async def test_a_client_that_leaves_while_it_is_written_to_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def write(_stream: Stream, _piece: bytes) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(Stream, "write", write)
    async with open_gateway(StubEngine()) as door:
        await exchange(door.port, asking(stream=True))
        await until(lambda: bool(door.records))
    assert door.records[0].verdict == "cancelled"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_engine_that_ends_has_nobody_connected_after_its_last_answer() -> None:
    engine = StubEngine(pause_seconds=0.05)
    async with open_gateway(engine) as door:
        await door.post(chat())
        assert engine.connections == 1, "the connection is kept for the next request"
        last = asyncio.create_task(door.post(chat()))
        await until(lambda: engine.working == 1)
        door.put()
        assert (await last)[0] == 200
        await until(lambda: not engine.connections, 1.0)


async def test_a_request_that_engines_die_of_is_not_tried_on_all_of_them() -> None:
    engines = [StubEngine(f"e{number}", crash_before=0) for number in range(6)]
    async with open_gateway(*engines) as door:
        status, _, answer = await door.post(chat())
    assert (status, answer["error"]["code"]) == (502, "engine_failed")
    assert sum(len(engine.seen) for engine in engines) == 3


async def test_a_stream_that_breaks_off_is_told_and_never_looks_complete() -> None:
    engine = StubEngine(tokens=5, crash_before=2, pause_seconds=0.01)
    async with open_gateway(engine) as door:
        pieces: list[bytes] = []
        bound = chat(stream=True, response_format={"type": "json_object"})  # Which nobody else could go on with.
        async with door.session.post(door.url + CHAT, json=bound) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await collect(answer, pieces)
        received = b"".join(pieces)
        await until(lambda: bool(door.records))
    event = json.loads(received.split(b"event: error\ndata: ")[1])
    assert event["error"]["code"] == "engine_failed"
    assert received.count(b'"content"') == 2
    assert b"[DONE]" not in received
    assert (door.records[0].verdict, len(engine.seen)) == ("truncated", 1)


async def test_a_fault_of_the_gateways_own_within_a_stream_is_an_event_and_no_second_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def feed(counts: StreamUsage, piece: bytes) -> None:
        if b"t1" in piece:
            raise ZeroDivisionError
        counts._tail += piece

    monkeypatch.setattr(StreamUsage, "feed", feed)
    async with open_gateway(StubEngine(pause_seconds=0.02)) as door:
        received = await exchange(door.port, asking(stream=True))
        await until(lambda: bool(door.records))
    assert received.count(b"HTTP/1.1") == 1
    event = json.loads(received.split(b"event: error\ndata: ")[1].partition(b"\n")[0])
    assert event["error"]["code"] == "internal_error"
    assert not received.endswith(b"0\r\n\r\n"), "nobody takes it for the whole"
    assert (door.records[0].verdict, door.gateway.admissions.loads()["default/qwen"]) == ("truncated", (0, 0, 1))


@pytest.mark.parametrize("status", [301, 401, 403, 500, 502])
async def test_what_goes_wrong_inside_is_not_told_outside(status: int) -> None:
    engine = StubEngine(status=status, answer=b"Traceback: /models/secret.gguf at 10.0.0.7")
    async with open_gateway(engine) as door:
        answer = await door.post(chat())
    assert answer[0] == 502
    assert answer[2]["error"]["message"].startswith("The engine failed while it worked on this request")
    assert "secret" not in str(answer)


async def test_what_an_engine_says_of_a_bad_request_is_passed_on() -> None:
    engine = StubEngine(status=400, answer=b'{"error": {"message": "too long"}}')
    async with open_gateway(engine) as door:
        status, _, answer = await door.post(chat())
        await until(lambda: bool(door.records))
    assert (status, answer["error"]["message"]) == (400, "too long")
    assert door.records[0].verdict == "refused_by_engine"


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("more", [{"stream": False}, {"stream": True}])
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
async def test_media_that_a_model_does_not_take_are_the_clients_fault_and_not_the_engines(
    path: str, more: dict[str, Any], kind: str
) -> None:
    words = f'{{"error": {{"code": 500, "message": "{kind} input is not supported - hint: provide the mmproj"}}}}'
    engine = StubEngine(status=500, answer=words.encode())
    async with open_gateway(engine) as door:
        status, _, answer = await door.post(chat(**more), path)
        await until(lambda: bool(door.records))
    assert (status, len(engine.seen), door.records[0].verdict) == (400, 1, "unsupported_media")
    assert "send text alone, or have a projector for it named in the field spec.projectorRef" in str(answer)


async def test_a_silent_engine_is_given_up() -> None:
    engine = StubEngine(pause_seconds=5)
    async with open_gateway(engine, limits=Limits(silence_seconds=0.1)) as door:
        status, _, answer = await door.post(chat())
        await until(lambda: engine.left == 1)
    assert (status, answer["error"]["code"]) == (504, "engine_timeout")


async def test_an_answer_that_takes_too_long_altogether_is_cut() -> None:
    engine = StubEngine(tokens=1000, pause_seconds=0.02)
    async with open_gateway(engine, limits=Limits(total_seconds=0.2)) as door:
        async with door.session.post(door.url + CHAT, json=chat(stream=True)) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        await until(lambda: engine.left == 1)


async def test_anthropic_clients_get_their_own_shape_of_error() -> None:
    async with open_gateway(StubEngine()) as door:
        status, _, answer = await door.post(chat("nothing"), "/v1/messages")
    assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "not_found_error")


async def test_models_are_listed_and_told_one_by_one() -> None:
    async with open_gateway(StubEngine(), created=7) as door:
        async with door.session.get(door.url + "/v1/models") as answer:
            listed: dict[str, Any] = await answer.json()
        async with door.session.get(door.url + "/v1/models/default/qwen") as answer:
            one = await answer.json()
        async with door.session.get(door.url + "/v1/models/default/none") as answer:
            assert answer.status == 404
    assert one == {"id": "default/qwen", "object": "model", "created": 7, "owned_by": "default"}
    assert listed == {"object": "list", "data": [one]}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", "/v1/messages", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/x", "GET"),
    ],
)
async def test_another_method_is_refused_with_the_one_that_is_meant(method: str, path: str, allowed: str) -> None:
    async with open_gateway(StubEngine()) as door, door.session.request(method, door.url + path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
        assert (await answer.json())["error"]["message"] == f"This address answers {allowed} alone."


async def test_health_is_told_and_readiness_ends_before_the_process_does() -> None:
    async with open_gateway(StubEngine()) as door:
        for path in ("/healthz", "/readyz"):
            async with door.session.get(door.url + path) as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
        door.gateway.end()
        async with door.session.get(door.url + "/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "ending\n")
        async with door.session.get(door.url + "/healthz") as answer:
            assert answer.status == 200
