"""Our gateway as `make bench BENCH=gateway` measures it: one process; keys, routing, metrics and audit all on.

python -m tests.bench.gateway_ours PORT METRICS_PORT ENGINE_PORT AUDIT_FILE
"""

import sys
import time
from pathlib import Path

from slm_operator.gateway.access import KeyAccess
from slm_operator.gateway.app import Gateway
from slm_operator.gateway.audit_file import AuditFile
from slm_operator.gateway.directory import Endpoint, MemoryDirectory, Service
from slm_operator.gateway.keys import ApiKey, format_key, hash_key
from slm_operator.gateway.listening import Listener, listen_for_metrics
from slm_operator.gateway.metrics import GatewayMetrics
from slm_operator.gateway.serving import Stop, run, serve_until_told

HOST = "127.0.0.1"
KEY = format_key(b"b" * 32)
MODEL = "default/qwen"
OTHERS = 50
"""Services and keys beside the ones that are asked for."""
SLOTS = 10_000
"""Nobody waits for one."""


def services(engine_port: int) -> list[Service]:
    """The one that is asked for, on what looks like four engines, among others."""
    endpoints = tuple(Endpoint(f"engine-{number}", HOST, engine_port, slots=SLOTS) for number in range(4))
    others = [Service("default", f"other-{number}", endpoints=endpoints) for number in range(OTHERS)]
    return [Service("default", "qwen", "qwen-q4", "sha256:" + "a" * 64, endpoints), *others]


def keys() -> list[ApiKey]:
    """The one that is used, with every kind of limit, among others."""
    limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "max_in_flight": 10**6}
    used = ApiKey("default/bench", "default", (hash_key(KEY),), ("default/*",), 4e9, **limits)
    others = [ApiKey(f"default/{number}", "default", (hash_key(str(number)),), ()) for number in range(OTHERS)]
    return [used, *others]


async def main(port: int, metrics_port: int, engine_port: int, audit_file: Path) -> None:
    """Serve until told to end."""
    access = KeyAccess(time.time)
    access.replace(keys())
    audit = AuditFile(audit_file, time.time)
    gateway = Gateway(MemoryDirectory(services(engine_port)), access, check=audit.check)
    metrics = GatewayMetrics(gateway.admissions.loads)
    gateway.observe_with(metrics.observe, audit.observe)
    listener = Listener(gateway)
    await listener.listen(HOST, port)
    await listen_for_metrics(metrics.render, HOST, metrics_port)
    await serve_until_told(listener, 1.0, Stop())


if __name__ == "__main__":
    run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
