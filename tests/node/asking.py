"""A pod that asks for chat answers without a break, as an application in the cluster does."""

import json
from types import TracebackType
from typing import Any, Self

from dev.demo.cluster_run import GATEWAY, TOKEN, visitor
from tests.support.installed import Namespace, until

ASK = """
import json, socket, sys, threading, time, urllib.request
url, body, token, askers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
writing = threading.Lock()

def ask():
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer " + open(token).read()
    told, finished, ended = "", False, not json.loads(body).get("stream")
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=300) as answer:
        if ended:
            return json.load(answer)["choices"][0]["message"]["content"]
        for line in answer:
            piece = line.decode().removeprefix("data: ").strip()
            if piece == "[DONE]":
                ended = True
            elif piece.startswith("{"):
                for choice in json.loads(piece)["choices"]:
                    told += choice["delta"].get("content") or ""
                    finished = finished or bool(choice["finish_reason"])
    if not (ended and finished):
        raise EOFError("the stream was cut: " + told)
    return told

def no_name_server_answered(problem):
    # In its five seconds, on a busy node: that says nothing of whom was to be asked. An unknown name is another error.
    return getattr(getattr(problem, "reason", None), "errno", None) == socket.EAI_AGAIN

def ask_forever():
    while True:
        began = time.time()
        try:
            outcome = {"answer": ask()}
        except Exception as problem:
            if no_name_server_answered(problem):
                continue
            said = problem.read().decode() if hasattr(problem, "read") else ""
            outcome = {"failure": repr(problem) + " " + said}
        line = json.dumps({**outcome, "at": began, "seconds": round(time.time() - began, 3)})
        with writing:
            print(line, flush=True)
        time.sleep(0.02)

for _ in range(askers):
    threading.Thread(target=ask_forever).start()
"""
QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is a list?"}],
    "max_tokens": 8,
    "temperature": 0,
}


class Asker:
    """Asks a service itself while the context lasts; each request is a connection of its own."""

    def __init__(self, place: Namespace, service: str, image: str) -> None:
        self._place = place
        self._pod = f"asker-{service}"
        self._manifest = visitor(image)
        self._manifest["metadata"]["name"] = self._pod
        self._lines: list[dict[str, Any]] = []
        self._ask(f"http://{service}/v1/chat/completions", QUESTION)

    def _ask(self, url: str, body: dict[str, Any], token: str = "", askers: int = 1) -> None:
        command = ["python3", "-c", ASK, url, json.dumps(body), token, str(askers)]
        self._manifest["spec"]["containers"][0]["command"] = command

    def __enter__(self) -> Self:
        self._place.apply(self._manifest)
        self.wait_for(3)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines = self._read()
        self._place.kubectl("delete", "pod", self._pod, "--wait=false")

    @property
    def answers(self) -> list[str]:
        """What was answered so far."""
        return [each["answer"] for each in self._lines or self._read() if "answer" in each]

    @property
    def failures(self) -> list[str]:
        """What went wrong so far, in the words of the client."""
        return [each["failure"] for each in self._lines or self._read() if "failure" in each]

    def wait_for(self, more: int) -> None:
        """Return after so many more requests."""
        before = self._read()
        told = f"{self._pod} does not ask: {before[-3:]}"
        # Each look is a kubectl that reads all of it: more of them would take the CPUs from what is looked at.
        until(lambda: len(self._read()) >= len(before) + more, told, pause_seconds=2)

    def _read(self) -> list[dict[str, Any]]:
        text = self._place.kubectl("logs", self._pod, "--ignore-errors", "--pod-running-timeout=120s")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


class GatewayAsker(Asker):
    """Asks through the gateway, for streams, from several threads."""

    def __init__(self, place: Namespace, service: str, image: str, askers: int = 1, tokens: int = 8) -> None:
        super().__init__(place, service, image)
        self._pod = self._manifest["metadata"]["name"] = f"asker-gateway-{service}-{askers}"
        body = {**QUESTION, "model": service, "stream": True, "max_tokens": tokens}
        self._ask(f"{GATEWAY}/v1/chat/completions", body, TOKEN, askers)
