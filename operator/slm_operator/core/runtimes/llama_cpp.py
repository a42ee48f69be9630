"""llama-server: argv and probes.

Everything is given as arguments, never as environment: llama.cpp ignores unknown environment names silently.
"""

from slm_operator.core.plan import Manifest

PORT_VARIABLE, CPUS_VARIABLE = "PORT", "CPUS"
"""Variables of the container that stand in its command line: the local backend knows a replica's port only when it
starts it, and Kubernetes the CPUs of a pod without a limit only when it has a node."""
START_SECONDS = 600
"""Longest start: reading 30 GB from a slow disk at 50 MB/s."""


def build_command(
    engine: tuple[str, ...], model_path: str, alias: str, *, context_size: int, parallel: int, threads: int, host: str
) -> list[str]:
    """Argv of an engine with ``parallel`` slots of ``context_size`` tokens each.

    ``threads`` 0 leaves it to ``CPUS``. ``--ctx-size`` is the sum over all slots: llama-server divides it by
    ``--parallel``.
    """
    workers = str(threads) if threads else f"$({CPUS_VARIABLE})"
    return [
        *engine,
        *("--model", model_path),
        *("--alias", alias),
        *("--host", host),
        *("--port", f"$({PORT_VARIABLE})"),
        *("--ctx-size", str(context_size * parallel)),
        *("--parallel", str(parallel)),
        *("--threads", workers),
        *("--threads-batch", workers),
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
