"""A pod that asks a service for chat answers without a break, as an application in the cluster does."""

import json
from types import TracebackType
from typing import Any, Self

from dev.demo.cluster_run import visitor
from tests.support.installed import Namespace, until

ASK = """
import json, sys, time, urllib.request
body = json.dumps({"messages": [{"role": "user", "content": "What is a list?"}], "max_tokens": 8, "temperature": 0})
number = 0
while True:
    number += 1
    request = urllib.request.Request(sys.argv[1], body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            told = json.load(answer)["choices"][0]["message"]["content"]
            print(json.dumps({"number": number, "answer": told}), flush=True)
    except Exception as problem:
        print(json.dumps({"number": number, "failure": repr(problem), "at": time.time()}), flush=True)
    time.sleep(0.02)
"""


class Asker:
    """Asks while the context lasts; each request is a connection of its own."""

    def __init__(self, place: Namespace, service: str, image: str) -> None:
        self._place = place
        self._pod = f"asker-{service}"
        url = f"http://{service}/v1/chat/completions"
        self._manifest = visitor(image)
        self._manifest["metadata"]["name"] = self._pod
        self._manifest["spec"]["containers"][0]["command"] = ["python3", "-c", ASK, url]
        self._lines: list[dict[str, Any]] = []

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
        before = len(self._read())
        until(lambda: len(self._read()) >= before + more, f"{self._pod} does not ask: {self._read()[-3:]}")

    def _read(self) -> list[dict[str, Any]]:
        text = self._place.kubectl("logs", self._pod, "--ignore-errors", "--pod-running-timeout=120s")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
