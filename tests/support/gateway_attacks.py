"""Requests that try what they should not: bytes as they go over the wire, and what must come back.

Sources: RFC 9112 (6.1, 6.3, 11.2) and the request-smuggling tables of Kettle's "HTTP Desync Attacks" (PortSwigger); the
administrative routes are those of llama-server's README and of vLLM's api_server.
"""

import json
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
BODY = b'{"model":"default/qwen","messages":[]}'
GET_SLOTS = b"GET /slots HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSED = 0
"""In place of a status: the connection is closed without an answer."""


@dataclass(frozen=True)
class Attack:
    """One attempt."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    """Statuses of all answers on the connection, in order."""
    engine_requests: int = 0
    """How many requests an engine may see of it."""


def request(
    *headers: str, body: bytes = BODY, method: str = "POST", path: str = CHAT, key: str | None = "KEY"
) -> bytes:
    """A request with these headers; the body's length stands among them only where a header says it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def sized(body: bytes = BODY, *headers: str, **more: Any) -> bytes:
    """A request whose length is right."""
    return request(f"Content-Length: {len(body)}", *headers, body=body, **more)


def kept(data: bytes) -> bytes:
    """The same on a connection that stays open."""
    return data.replace(b": close", b": keep-alive")


def chunked(body: bytes, *headers: str) -> bytes:
    """A request in chunks, as given."""
    return request("Transfer-Encoding: chunked", *headers, body=body)


def asking(**fields: Any) -> bytes:
    """A request with these fields."""
    return sized(json.dumps({"model": "default/qwen", "messages": [], **fields}).encode())


LENGTH = f"Content-Length: {len(BODY)}"
CHUNKS = b"26\r\n" + BODY + b"\r\n0\r\n\r\n"

SMUGGLING = [
    Attack("length and chunks", request(LENGTH, "Transfer-Encoding: chunked", body=CHUNKS), (400,)),
    Attack("chunks and length", request("Transfer-Encoding: chunked", LENGTH, body=CHUNKS), (400,)),
    Attack("two lengths that differ", request("Content-Length: 0", LENGTH), (400,)),
    Attack("two lengths alike", request(LENGTH, LENGTH), (400,)),
    Attack("a list of lengths", request(f"Content-Length: {len(BODY)}, {len(BODY)}"), (400,)),
    Attack("a length with a sign", request(f"Content-Length: +{len(BODY)}"), (400,)),
    Attack("a negative length", request("Content-Length: -1"), (400,)),
    Attack("a hexadecimal length", request("Content-Length: 0x26"), (400,)),
    Attack("a length with a blank within", request("Content-Length: 3 8"), (400,)),
    Attack("a length beyond 64 bits", request("Content-Length: 18446744073709551654"), (400,)),
    Attack("a length that is empty", request("Content-Length: "), (400,)),
    Attack("an unknown coding", request("Transfer-Encoding: xchunked", body=CHUNKS), (400,)),
    Attack("chunked that is not last", request("Transfer-Encoding: chunked, identity", body=CHUNKS), (400,)),
    Attack("chunked twice", request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS), (400,)),
    Attack("a blank before the colon", request("Transfer-Encoding : chunked", body=CHUNKS), (400,)),
    Attack("a folded coding", request("Transfer-Encoding:\r\n chunked", body=CHUNKS), (400,)),
    Attack("a folded header", request("X-A: b\r\n c", LENGTH), (400,)),
    Attack("a chunk's size in 0x", chunked(b"0x26\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    Attack("a negative chunk", chunked(b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    Attack("a chunk beyond 64 bits", chunked(b"10000000000000026\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    Attack("a chunk longer than its size", chunked(b"2\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    Attack("chunks that end lines with LF alone", chunked(b"26\n" + BODY + b"\n0\n\n"), (400,)),
    Attack("lines that end with LF alone", sized().replace(b"\r\n", b"\n"), (400,)),
    Attack("a CR within a header", request("X-A: b\rTransfer-Encoding: chunked", LENGTH), (400,)),
    Attack("a NUL within a header", request("X-A: b\0c", LENGTH), (400,)),
    Attack("a blank within a header's name", request("X A: b", LENGTH), (400,)),
    Attack("a header without a colon", request("X-A", LENGTH), (400,)),
    Attack("a header without a name", request(": b", LENGTH), (400,)),
    Attack("two hosts", request("Host: other", LENGTH), (400,)),
    Attack(
        "bytes after a body that look like a request",
        sized().replace(b": close", b": keep-alive") + GET_SLOTS,
        (200, 404),
        1,
    ),
    Attack(
        "bytes after a body in chunks", chunked(CHUNKS).replace(b": close", b": keep-alive") + GET_SLOTS, (200, 404), 1
    ),
    Attack("HTTP/0.9", b"GET /v1/models\r\n\r\n", (400,)),
    Attack("HTTP/2 by force", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, (400,)),
    *(
        Attack(f"HTTP/{version} by its name", sized().replace(b"HTTP/1.1", f"HTTP/{version}".encode()), (400,))
        for version in ("0.9", "1.2", "2.0", "11.1")
    ),
    Attack("HTTP/2 by upgrade", sized(BODY, "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), (200,), 1),
    Attack("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, (400,)),
    Attack("a path with backslashes", sized(path="\\v1\\chat\\completions"), (400,)),
    Attack("a protocol of another name", sized().replace(b"HTTP/1.1", b"ICAP/1.0"), (400,)),
]
"""What makes two servers disagree on where a request ends."""

PATHS = [
    Attack(f"{method} {path}", sized(path=path, method=method), (404,))
    for method, path in [
        ("GET", "/slots"),
        ("POST", "/slots/0?action=save"),
        ("GET", "/props"),
        ("POST", "/props"),
        ("GET", "/metrics"),
        ("POST", "/lora-adapters"),
        ("POST", "/completion"),
        ("POST", "/apply-template"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/sleep"),
        ("POST", "/wake_up"),
        ("POST", "/collective_rpc"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/pause"),
        ("GET", "/server_info"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", f"{CHAT}/../../../slots"),
        ("POST", f"{CHAT}/..%2f..%2f..%2fslots"),
        ("POST", f"/{CHAT}"),
        ("POST", f"{CHAT}/"),
        ("POST", f"{CHAT};x=1"),
        ("POST", f"{CHAT}%00"),
        ("POST", f"{CHAT}%0d%0aX:%20y"),
        ("POST", "/v1/%63hat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", f"http://engine{CHAT}"),
        ("POST", f"http://169.254.169.254{CHAT}"),
        ("GET", "/v1/models/../../slots"),
        ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fslots"),
        ("OPTIONS", "*"),
    ]
] + [
    Attack(f"{method} {path}", sized(path=path, method=method), (405,))
    for method, path in [("GET", CHAT), ("PUT", CHAT), ("DELETE", "/v1/models/default/qwen"), ("TRACE", CHAT)]
]
"""What leads to an engine's other routes."""

CONTENT = [
    Attack("a query goes nowhere", sized(path=f"{CHAT}?model=other&path=/slots"), (200,), 1),
    Attack("a template of the client's", asking(chat_template="{{ ''.__class__.__mro__ }}"), (400,)),
    Attack("a template among its arguments", asking(chat_template_kwargs={"chat_template": "{{ 7*7 }}"}), (400,)),
    Attack("a host to transfer from", asking(kv_transfer_params={"remote_host": "169.254.169.254"}), (400,)),
    *(
        Attack(
            f"media at {place}",
            asking(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": place}}]}]),
            (400,),
        )
        for place in (
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "http://localhost:10250/pods",
            "gopher://x/",
        )
    ),
    Attack("two models in one body", sized(b'{"model":"default/qwen","model":"team-b/secret"}'), (400,)),
    Attack("two models, one escaped", sized(b'{"model":"default/qwen","mod\\u0065l":"team-b/secret"}'), (400,)),
    Attack("brackets without end", sized(b'{"model":' + b"[" * 200_000), (400,)),
    Attack("a number without end", sized(b'{"model":"default/qwen","seed":' + b"9" * 100_000 + b"}"), (400,)),
    Attack("no JSON number", sized(b'{"model":"default/qwen","seed":Infinity}'), (400,)),
    Attack("UTF-16", sized('{"model":"default/qwen"}'.encode("utf-16")), (400,)),
    Attack("a model's name without end", asking(model="x" * 100_000), (400,)),
    Attack("a model's name with a line's end", asking(model="default/qwen\r\nX: y"), (404,)),
    Attack("a model's name with a NUL", asking(model="default/qwen\0"), (404,)),
    Attack("another tenant's model", asking(model="team-b/secret"), (404,)),
    Attack("another tenant's alias", asking(model="team-b/secret:Q4_K_M"), (404,)),
    Attack("another tenant's model, by a path", asking(model="default/../team-b/secret"), (404,)),
    Attack("any model", asking(model="*"), (404,)),
    Attack("a list of models", asking(model=["default/qwen", "team-b/secret"]), (400,)),
    Attack("another tenant's model, by its address", sized(b"", method="GET", path="/v1/models/team-b/secret"), (404,)),
]
"""What the body asks for."""

SIZES = [
    Attack("a body of a terabyte", request("Content-Length: 1099511627776", body=b""), (413,)),
    Attack("a body over the limit", sized(b" " * 250_001), (413,)),
    Attack("chunks over the limit", chunked((b"FFFF\r\n" + b" " * 65_535 + b"\r\n") * 4 + CHUNKS), (413,)),
    Attack("a compressed body", sized(BODY, "Content-Encoding: gzip"), (415,)),
    Attack("a body that never comes", request(LENGTH, body=b""), (408,)),
    Attack("an expectation that nobody knows", sized(BODY, "Expect: the unexpected"), (417,)),
    Attack("a header without end", sized(BODY, "X-A: " + "b" * 100_000), (400,)),
    Attack("a flood of headers", sized(BODY, *(f"X-{number}: b" for number in range(1000))), (400,)),
    Attack("a path without end", sized(path="/" + "a" * 100_000), (400,)),
    Attack("headers that never end", b"POST / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n", (CLOSED,)),
    Attack("nothing at all", b"", (CLOSED,)),
]
"""What is too much, or too slow."""

KEYS = [
    Attack("no key", sized(key=None), (401,)),
    Attack("no key, and a body of a terabyte", request("Content-Length: 1099511627776", body=b"", key=None), (401,)),
    Attack("a wrong key", sized(key="WRONG"), (401,)),
    Attack("an expired key", sized(key="EXPIRED"), (401,)),
    Attack("a key whose Secret is gone", sized(key="REVOKED"), (401,)),
    Attack("the hash of a key", sized(key="HASH"), (401,)),
    Attack("a key in the query", sized(key=None, path=f"{CHAT}?api_key=KEY&key=KEY"), (401,)),
    Attack("a key in a cookie", sized(BODY, "Cookie: key=KEY", key=None), (401,)),
    Attack("a key as a password", sized(BODY, "Authorization: Basic S0VZOg==", key=None), (401,)),
    Attack("two keys, the first of which is wrong", request(LENGTH, "Authorization: Bearer WRONG"), (401,)),
    Attack("a key of another tenant", sized(key="OTHER"), (404,)),
    Attack("models without a key", sized(b"", method="GET", path="/v1/models", key=None), (401,)),
]
"""Who asks. KEY and its like are put in by the test."""

ATTACKS = [*SMUGGLING, *PATHS, *CONTENT, *SIZES, *KEYS]
