"""A proxy between a client and the API server that counts calls and makes the network and the server misbehave.

It runs in a thread of its own, so that tests may block. Towards the client it is plain HTTP on loopback; a client's
bearer token is forwarded, and without one the credentials of the given kubeconfig are used. Watches stream through.
Protocols that upgrade a connection (exec, port-forward) are refused.

    with ApiProxy(cluster.kubeconfig, folder) as proxy:
        start_operator(KUBECONFIG=proxy.kubeconfig)
        proxy.inject(Fault(status=429, retry_after_seconds=1, verbs=WRITES, share=0.2))
        proxy.cut_watches()
        proxy.count(WRITES)
"""

import asyncio
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.api_calls import READS, WRITES, Call, Record, count, parse_call
from tests.support.api_faults import Fault, build_status, pick
from tests.support.kubeconfig import read_upstream, write_plain_kubeconfig

HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding",
    "upgrade", "host", "content-length",
})  # fmt: skip
"""Headers about one connection; lengths are worked out anew."""
AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that a client library would add by itself: what the client did not say is not said."""
START_SECONDS = 10.0
LARGEST_REQUEST_BYTES = 8 << 20
NEVER = aiohttp.ClientTimeout(total=None, connect=10)
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Watch:
    """A stream to a client that is open."""

    call: Call
    request: web.Request
    task: asyncio.Task[object]
    cut: bool = False


class ApiProxy:
    """A context manager: listening from beginning to end."""

    def __init__(self, kubeconfig: Path, folder: Path, seed: int = 0) -> None:
        self.upstream = kubeconfig
        """What the API server itself is reached by, uncounted."""
        self._upstream = read_upstream(kubeconfig)
        self._folder = folder
        self._dice = random.Random(seed)  # noqa: S311 (repeatable, not secret)
        self._faults: list[Fault] = []
        self._records: list[Record] = []
        self._watches: list[_Watch] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self.kubeconfig = folder / "proxied.kubeconfig"
        """What a client connects by."""

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS)
        write_plain_kubeconfig(self.kubeconfig, f"http://127.0.0.1:{port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_watches()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def inject(self, *faults: Fault) -> None:
        """Add rules behind those there are; the first that picks a call decides."""
        self._do(lambda: self._faults.extend(faults))

    def heal(self, *faults: Fault) -> None:
        """Remove every rule, and have these from then on: no call comes in between."""
        self._do(lambda: self._faults.__setitem__(slice(None), faults))

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        """Rules for a while; afterwards there are none."""
        self.inject(*faults)
        try:
            yield
        finally:
            self.heal()

    def cut_watches(self, resources: Iterable[str] = (), *, clean: bool = False) -> int:
        """End open watches now, of all resources or some; ``clean`` as a server that reached its limit does, else
        by closing the connection. Answers how many there were."""
        wanted = set(resources)

        def cut() -> int:
            chosen = [each for each in self._watches if not wanted or each.call.resource in wanted]
            for watch in chosen:
                if clean:
                    watch.cut = True
                    watch.task.cancel()
                else:
                    _abort(watch.request)
            return len(chosen)

        return self._do(cut)

    def watching(self) -> Counter[str]:
        """Open watches by resource."""
        return self._do(lambda: Counter(each.call.resource for each in self._watches))

    def records(self) -> list[Record]:
        """Calls so far, in the order they were answered; a watch counts when it begins."""
        return self._do(self._records.copy)

    def count(self, verbs: Iterable[str] = WRITES | READS) -> Counter[str]:
        """Calls so far by ``verb resource``, those that were never forwarded included."""
        return count(self.records(), verbs)

    def reset(self) -> None:
        """Count from here."""
        self._do(self._records.clear)

    def _do(self, action: Callable[[], Answer]) -> Answer:
        """Carry something out in the proxy's thread."""

        async def act() -> Answer:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(START_SECONDS)

    async def _start(self) -> int:
        self._session = _open_session(self._upstream.context)
        self._bare_session = _open_session(self._upstream.trust)
        application = web.Application(client_max_size=LARGEST_REQUEST_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await self._bare_session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = parse_call(request.method, request.path, request.query)
        if "upgrade" in request.headers:
            return web.json_response(build_status(501, "this proxy upgrades no connection"), status=501)
        fault = pick(self._faults, call, self._dice)
        try:
            if fault is None:
                return await self._forward(request, call)
            if fault.after:
                return await self._lose_answer(request, call, fault)
            await asyncio.sleep(fault.delay_seconds)
            return await self._inject(request, call, fault, reached=False)
        except aiohttp.ClientConnectionError as problem:  # As a load balancer in front of it would say.
            self._record(call, 503, reached=False)
            return web.json_response(build_status(503, f"the API server cannot be reached: {problem}"), status=503)

    async def _lose_answer(self, request: web.Request, call: Call, fault: Fault) -> web.StreamResponse:
        """The API server did it, and the client hears something else, or hears it late."""
        async with await self._ask(request) as answer:
            body = await answer.read()
        await asyncio.sleep(fault.delay_seconds)
        if fault.replaces_answer:
            return await self._inject(request, call, fault, reached=True)
        self._record(call, answer.status, reached=True)
        return web.Response(status=answer.status, headers=_passed_on(answer.headers), body=body)

    async def _inject(self, request: web.Request, call: Call, fault: Fault, *, reached: bool) -> web.StreamResponse:
        """What the rule says, or, when it only delays, the true answer."""
        if not fault.replaces_answer:
            return await self._forward(request, call)
        status = 0 if fault.drop else (200 if fault.event else fault.status)
        self._record(call, status, reached=reached)
        if fault.drop:
            _abort(request)
            return web.Response()  # Nobody hears it.
        return web.Response(status=status, headers=fault.headers(), body=fault.body(call))

    async def _forward(self, request: web.Request, call: Call) -> web.StreamResponse:
        async with await self._ask(request) as answer:
            self._record(call, answer.status, reached=True)
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            with self._watched(request, call):
                try:
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                except aiohttp.ClientError:  # One of the two sides went away in the middle.
                    _abort(request)
            return response

    async def _ask(self, request: web.Request) -> aiohttp.ClientResponse:
        """Send the request on; raises aiohttp.ClientConnectionError."""
        headers, session = _passed_on(request.headers), self._session
        if "Authorization" in request.headers:  # An API server asks for a certificate first, and would stop there.
            session = self._bare_session
        elif self._upstream.token:
            headers["Authorization"] = f"Bearer {self._upstream.token}"
        url = URL(self._upstream.server + request.raw_path, encoded=True)
        body = await request.read() or None
        return await session.request(request.method, url, headers=headers, data=body, skip_auto_headers=AUTOMATIC)

    @contextmanager
    def _watched(self, request: web.Request, call: Call) -> Iterator[None]:
        """Remember the stream while it is open; to be cut cleanly is no error."""
        task = asyncio.current_task()
        if call.verb != "watch" or task is None:
            yield
            return
        watch = _Watch(call, request, task)
        self._watches.append(watch)
        try:
            yield
        except asyncio.CancelledError:
            if not watch.cut:
                raise
            task.uncancel()
        finally:
            self._watches.remove(watch)

    def _record(self, call: Call, status: int, *, reached: bool) -> None:
        self._records.append(Record(call, status, reached, time.monotonic()))


def _open_session(context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=context or True)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=NEVER)


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _abort(request: web.Request) -> None:
    """Close the client's connection without a word."""
    if request.transport is not None:
        request.transport.abort()
