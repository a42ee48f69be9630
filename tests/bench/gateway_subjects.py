"""What `make bench BENCH=gateway` compares: the engine alone, our gateway, nginx and LiteLLM's proxy before it.

Every one is a single process on a processor of its own, as far as there are two; the engine and the load share the
others. All but nginx check a key and know the model by another name than the engine does.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dev.apt import require
from dev.cluster.build import cache_folder
from dev.cluster.cluster import free_ports
from tests.bench.gateway_ours import KEY, MODEL
from tests.bench.harness import ROOT

STUB = Path(__file__).parent / "gateway_stub"
LITELLM = "1.106.0"
LITELLM_KEY = "sk-bench"
LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/qwen-q4, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, request_timeout: 600}}
"""
NGINX_CONFIG = """\
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; keepalive_requests 100000000;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""
START_SECONDS = 120.0


@dataclass(frozen=True)
class Subject:
    """Something that answers chat completions."""

    name: str
    port: int
    process: psutil.Process
    key: str = "none"

    @property
    def url(self) -> str:
        """Where it does."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def cpu_seconds(self) -> float:
        """Processor time of its processes so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes())

    def memory_mib(self) -> float:
        """Memory of its processes now."""
        return sum(float(each.memory_info().rss) for each in self._processes()) / 2**20

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def stub() -> Path:
    """The engine and client of streams, built when its source has changed."""
    target = cache_folder().parent / "bench" / "gatewaystub"
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-trimpath", "-o", str(target), "."], cwd=STUB, check=True)
    return target


def litellm() -> Path:
    """LiteLLM's proxy in a virtual environment of its own, which it shares nothing with."""
    folder = cache_folder().parent / "bench" / f"litellm-{LITELLM}"
    program = folder / "bin" / "litellm"
    if not program.exists():
        sys.stderr.write(f"==> Installing LiteLLM {LITELLM} into {folder} (once, minutes)\n")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
        try:
            subprocess.run([*pip, f"litellm[proxy]=={LITELLM}"], check=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return program


@contextmanager
def subjects(folder: Path) -> Iterator[list[Subject]]:
    """All of them, running."""
    for program in ("nginx", "wrk"):
        require(program, program, "The gateway is measured beside nginx with wrk")
    ports = dict(zip(("engine", "ours", "metrics", "nginx", "litellm"), free_ports(5), strict=True))
    own, others = _processors()
    with ExitStack() as stack:

        def start(name: str, key: str, command: Sequence[str], processors: set[int]) -> Subject:
            process = stack.enter_context(_running(folder / f"{name}.log", command, processors))
            _await_answer(ports[name], process)
            return Subject(name, ports[name], process, key)

        engine = start("engine", "none", [str(stub()), "engine", "-port", str(ports["engine"])], others)
        numbers = [str(ports[each]) for each in ("ours", "metrics", "engine")]
        ours = [sys.executable, "-m", "tests.bench.gateway_ours", *numbers, str(folder / "audit.jsonl")]
        yield [
            engine,
            start("ours", KEY, ours, own),
            start("nginx", "none", _nginx(folder, ports), own),
            start("litellm", LITELLM_KEY, _litellm(folder, ports), own),
        ]


def _nginx(folder: Path, ports: dict[str, int]) -> list[str]:
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, engine=ports["engine"], port=ports["nginx"]))
    return ["nginx", "-c", str(config), "-e", str(folder / "nginx-error.log")]


def _litellm(folder: Path, ports: dict[str, int]) -> list[str]:
    config = folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, engine=ports["engine"], key=LITELLM_KEY))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(ports["litellm"]), "--num_workers", "1"]
    return [str(litellm()), *arguments]


def _processors() -> tuple[set[int], set[int]]:
    """One for whatever is measured, and the others."""
    first, *rest = sorted(os.sched_getaffinity(0))
    return {first}, set(rest) or {first}


@contextmanager
def _running(log: Path, command: Sequence[str], processors: set[int]) -> Iterator[psutil.Process]:
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),  # noqa: PLW1509 (no thread runs here)
        )
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.wait()


def _await_answer(port: int, process: psutil.Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{' '.join(process.cmdline())[:200]} does not answer")
