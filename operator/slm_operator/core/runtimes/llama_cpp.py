"""llama-server: argv and probes.

Everything is given as arguments, never as environment: llama.cpp ignores unknown environment names silently.
"""

from slm_operator.core.plan import Manifest

PORT = "$(PORT)"
"""Replaced with the replica's port by the local backend; the container's port on a cluster."""
START_SECONDS = 600
"""Longest start: reading 30 GB from a slow disk at 50 MB/s."""


def build_command(
    engine: tuple[str, ...], model_path: str, alias: str, *, context_size: int, parallel: int, threads: int, host: str
) -> list[str]:
    """Argv of an engine with ``parallel`` slots of ``context_size`` tokens each.

    ``--ctx-size`` is the sum over all slots: llama-server divides it by ``--parallel``.
    """
    return [
        *engine,
        *("--model", model_path),
        *("--alias", alias),
        *("--host", host),
        *("--port", PORT),
        *("--ctx-size", str(context_size * parallel)),
        *("--parallel", str(parallel)),
        *("--threads", str(threads)),
        *("--threads-batch", str(threads)),
        "--metrics",
        "--no-webui",
    ]


def build_probes() -> Manifest:
    """Probes: /health answers 503 while the weights load and 200 once requests are served."""
    check = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "startupProbe": {**check, "periodSeconds": 1, "failureThreshold": START_SECONDS},
        "readinessProbe": {**check, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**check, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }
