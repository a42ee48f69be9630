"""Checks of what ``slm doctor`` does not hold in its hands: the daemon, the hub it asks, other work on the CPUs."""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import psutil

from slm_operator.cli.findings import Finding
from slm_operator.local.leftovers import find_living
from slm_operator.local.lifecycle import running_pid
from slm_operator.local.paths import LocalPaths
from slm_operator.settings import Settings

PUBLIC_HUB = "https://huggingface.co"
"""What the steps ask when no hub is named."""
PROBE_SECONDS = 5.0
"""Longest wait for the hub: a hub that needs longer to say anything will not fetch a model either."""
REFUSALS = frozenset({401, 403, 407, 451})
SERVER_ERRORS = 500
RESTART = "then slm down and slm up"


def check_daemon(settings: Settings) -> Finding:
    """Whether the daemon runs."""
    pid = running_pid(LocalPaths.of(settings))
    if pid is None:
        return Finding("warn", "daemon", "not running; start it with: slm up")
    return Finding("ok", "daemon", f"running, process {pid}" if pid else "starting")


def read_environment(settings: Settings) -> Mapping[str, str] | None:
    """The environment with which the daemon was started; None when none runs or it cannot be read."""
    try:
        pid = running_pid(LocalPaths.of(settings))
        return psutil.Process(pid).environ() if pid else None
    except psutil.Error:
        return None


def check_hub(settings: Settings) -> Finding:
    """Which hub the steps ask, which is the daemon's, not this shell's; and whether it answers."""
    daemon = read_environment(settings)
    mine, allowed = settings.hub_endpoint or PUBLIC_HUB, settings.allow_private_hosts
    endpoint, whose = mine, "this shell's, as no daemon's could be read"
    if daemon is not None:
        endpoint = daemon.get("SLM_HUB_ENDPOINT") or daemon.get("HF_ENDPOINT") or PUBLIC_HUB
        allowed = tuple(part.strip() for part in daemon.get("SLM_ALLOW_PRIVATE_HOSTS", "").split(",") if part.strip())
        whose = "the daemon's" if endpoint == mine else f"the daemon's, while this shell names {mine}"
    text = f"{endpoint} ({whose})" + (f", private hosts allowed: {', '.join(allowed)}" if allowed else "")
    problem = find_refusal(endpoint, allowed) or probe(endpoint)
    return Finding("warn", "hub", f"{text}: {problem}") if problem else Finding("ok", "hub", f"{text}, it answers")


def find_refusal(endpoint: str, allowed: tuple[str, ...]) -> str:
    """Why the steps would not contact an address; empty when they may, or when only a look-up of its name can tell."""
    parts = urlsplit(endpoint)
    try:
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        private = not ipaddress.ip_address(host).is_global
    except ValueError:
        return ""
    if not private or {parts.hostname, parts.netloc} & set(allowed):
        return ""
    return f"the steps refuse a private address: set SLM_ALLOW_PRIVATE_HOSTS={parts.netloc}, {RESTART}"


def probe(endpoint: str) -> str:
    """What is wrong with the hub and what to do; empty when it answers."""
    try:
        # As the steps do: proxies that the environment names are not used.
        with httpx.Client(timeout=PROBE_SECONDS, trust_env=False) as client:
            code = client.head(endpoint).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        return f"it does not answer ({why}): mend the network, or set HF_ENDPOINT to a mirror, {RESTART}"
    if code in REFUSALS:
        return f"it refuses ({code}): see whether this machine may ask it, or set HF_ENDPOINT to a mirror, {RESTART}"
    if code >= SERVER_ERRORS:
        return f"it answers with an error ({code}): try again later, or set HF_ENDPOINT to a mirror, {RESTART}"
    return ""


def check_load(settings: Settings) -> Finding:
    """Whether others keep the CPUs busy, which makes answers slow and benchmarks unsure."""
    load, cpus = os.getloadavg()[0], count_cpus()
    if load <= cpus:
        return Finding("ok", "load", f"{load:.1f} on {cpus}")
    own = len(find_living(LocalPaths.of(settings)))
    whose = "other work" if not own else "work"
    included = f", {own} of our own processes included" if own else ""
    text = f"{whose} on the CPUs: load {load:.1f} on {cpus}{included}; answers are slower and benchmarks less sure"
    return Finding("warn", "load", text)


def count_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
