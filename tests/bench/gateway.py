"""What the front door costs: one connection, many connections, many streams, and streams that wait.

wrk asks for small answers; a client in Go reads streams, since wrk cannot count their tokens. Everybody has the same
engine, which costs less than any proxy.
"""

import json
import os
import resource
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import httpx

from tests.bench.gateway_ours import MODEL
from tests.bench.gateway_subjects import STUB, Subject, stub, subjects
from tests.bench.harness import Figures, Goal, Report, take_turns

SECONDS = 4
CONNECTIONS = 32
STREAMS, TOKENS, PAUSE_MICROSECONDS = 100, 200, 20_000
"""A hundred answers at fifty tokens a second, for four seconds."""
IDLE_STREAMS = 5000
IDLE_SECONDS = 20
DESCRIPTORS = 20_000
SLOW = "litellm"
"""Takes most of a minute for four seconds of streams, and does not hold thousands: it is asked small things only."""
GOALS = {
    "addedLatencyMsP50": Goal("max", 0.5),
    "requestsPerSecondOfNginx": Goal("min", 0.15),
    "requestsPerSecondOfLiteLLM": Goal("min", 40.0),
    "streamedTokensOfEngine": Goal("min", 0.98),
}


def run(folder: Path, seconds: int = SECONDS, rounds: int = 3) -> Report:
    """All subjects in turn."""
    report = Report("gateway", f"chat completions of 180 bytes, {STREAMS} streams, {IDLE_STREAMS} idle streams")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, limit[1]), limit[1]))
    try:
        with subjects(folder) as found:
            for each in found:
                warm(each)
            turns: dict[str, Callable[[], Figures]] = {each.name: partial(measure, each, seconds) for each in found}
            report.figures = take_turns(turns, rounds)
            for subject in found:
                if subject.name != SLOW:
                    report.figures[subject.name] |= hold_streams(subject)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    report.ratios = compare(report.figures)
    report.goals = GOALS
    report.notes.append(
        "One process each, on one processor of its own where there are two or more; the engine and the load have the "
        "others. requestsPerCpuSecond counts the proxy's own processor time alone."
    )
    return report


def measure(subject: Subject, seconds: int) -> Figures:
    """One subject, once."""
    one = ask(subject, 1, seconds)
    before = subject.cpu_seconds()
    many = ask(subject, CONNECTIONS, seconds)
    used = max(subject.cpu_seconds() - before, 0.001)
    figures = {
        "latencyMsP50": one["p50"],
        "latencyMsP99": one["p99"],
        "requestsPerSecond": many["requests"] / many["seconds"],
        "requestsPerCpuSecond": many["requests"] / used,
        "memoryMiB": subject.memory_mib(),
    }
    return figures if subject.name == SLOW else figures | {"streamedTokensPerSecond": stream(subject)}


def warm(subject: Subject) -> None:
    """One request: what is loaded at the first is not what is measured."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {subject.key}"}
    httpx.post(subject.url, content=body, headers=headers, timeout=60).raise_for_status()


def ask(subject: Subject, connections: int, seconds: int) -> Figures:
    """Small answers over so many connections; raises RuntimeError when one failed."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "30s", "-s", str(STUB / "ask.lua")]
    environment = {**os.environ, "BENCH_KEY": subject.key}
    done = subprocess.run(["wrk", *options, subject.url], env=environment, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    if figures["failed"] or not figures["requests"]:
        raise RuntimeError(f"{subject.name}: {figures}")
    return figures


def stream(subject: Subject) -> float:
    """Tokens per second over all streams; raises RuntimeError when one was not whole."""
    options = {"streams": STREAMS, "tokens": TOKENS, "pause": PAUSE_MICROSECONDS}
    done = subprocess.run(_streams(subject, options), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["complete"] != STREAMS or found["tokens"] != STREAMS * TOKENS:
        raise RuntimeError(f"{subject.name}: {found}")
    return float(found["tokens"] / found["seconds"])


def hold_streams(subject: Subject) -> Figures:
    """Memory while thousands of streams have had a token and wait for the next one."""
    options = {"streams": IDLE_STREAMS, "tokens": 2, "pause": 600_000_000, "hold": f"{IDLE_SECONDS}s"}
    before = subject.memory_mib()
    with subprocess.Popen(_streams(subject, options), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        found = json.loads(client.stdout.readline())
        held = subject.memory_mib()
        client.wait()
    if found["started"] != IDLE_STREAMS:
        raise RuntimeError(f"{subject.name}: {found}")
    return {
        "idleStreamsMemoryMiB": round(held, 1),
        "memoryKiBPerIdleStream": round((held - before) * 1024 / IDLE_STREAMS, 1),
    }


def _streams(subject: Subject, options: Mapping[str, object]) -> list[str]:
    arguments = [part for name, value in options.items() for part in (f"-{name}", str(value))]
    return [str(stub()), "streams", "-url", subject.url, "-key", subject.key, *arguments]


def compare(figures: dict[str, Figures]) -> Figures:
    """What the goals are about."""
    ours, engine, nginx, litellm = (figures[name] for name in ("ours", "engine", "nginx", "litellm"))
    return {
        "addedLatencyMsP50": round(ours["latencyMsP50"] - engine["latencyMsP50"], 3),
        "requestsPerSecondOfNginx": round(ours["requestsPerSecond"] / nginx["requestsPerSecond"], 3),
        "requestsPerCpuSecondOfNginx": round(ours["requestsPerCpuSecond"] / nginx["requestsPerCpuSecond"], 3),
        "requestsPerSecondOfLiteLLM": round(ours["requestsPerSecond"] / litellm["requestsPerSecond"], 1),
        "streamedTokensOfEngine": round(ours["streamedTokensPerSecond"] / engine["streamedTokensPerSecond"], 4),
    }
