"""The llama.cpp steps against a real llama.cpp and a real, tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slm_contract.base import Message
from slm_contract.reasons import Reason
from slm_contract.results import EvaluateResult
from slm_contract.specs import BenchmarkSpec, EvaluateSpec, QuantizeSpec
from slm_pipelines.errors import BadInput, Retryable
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import benchmark, evaluate, quantize
from slm_pipelines.store import Store, StoredManifest
from slm_pipelines.tools import llama_cpp
from slm_pipelines.tools.child import run_tool
from slm_pipelines.tools.cpus import cpu_threads
from slm_pipelines.tools.debian import DEFAULT_KEYRING, DebianSource, machine_sources
from slm_pipelines.tools.llama_cpp import PROGRAMS, Engine
from slm_pipelines.tools.perplexity import logits_size_bytes
from tests.support.engine import engine, store_model, write_model

__all__ = ["engine"]

REPORTER = Reporter("test")


@pytest.fixture
def store(tmp_path: Path, engine: Engine) -> Store:
    """An empty store; whoever uses it also wants the engine."""
    assert engine.version
    return Store(tmp_path / "store")


@pytest.fixture
def model(store: Store, tmp_path: Path) -> str:
    return store_model(store, tmp_path)


def make(store: Store, model: str, type_name: str) -> str:
    spec = QuantizeSpec(gguf=model, type=type_name, store=str(store.folder))
    return quantize.run(spec, REPORTER).manifest


# Finding and installing llama.cpp


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which llama.cpp is nowhere yet; returns its cache folder."""
    monkeypatch.delenv("SLM_LLAMA_CPP", raising=False)
    monkeypatch.setenv("SLM_CACHE_HOME", str(tmp_path / "cache"))
    if found := llama_cpp._on_path():
        pytest.skip(f"PATH has a llama.cpp in {found}, so nothing would be installed")
    return tmp_path / "cache"


def test_installs_from_debian_where_there_is_none_and_finds_it_again_after_a_move(nowhere: Path) -> None:
    stale = nowhere / "llama.cpp" / "installing-killed"
    stale.mkdir(parents=True)
    answers = []
    for _ in range(2):
        command = [sys.executable, "-m", "slm_pipelines.tools.llama_cpp"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        answers.append((json.loads(done.stdout), done.stderr))
    (answer, progress), (again, silence) = answers
    assert answer == again
    assert answer["version"].startswith("llama.cpp b")
    assert Path(answer["server"]).parent == Path(answer["bin"])
    assert "Asking the Debian mirror" in progress
    assert silence == ""
    assert not stale.exists()
    moved = nowhere.parent / "moved"
    nowhere.rename(moved)
    (bench,) = moved.glob("llama.cpp/b*/bin/llama-bench")
    assert "loaded CPU backend" in run_tool([bench, "--list-devices"]).output


def test_two_installers_at_once_install_once(nowhere: Path) -> None:
    command = [sys.executable, "-m", "slm_pipelines.tools.llama_cpp"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum("Unpacking" in errors for _, errors in outputs) == 1
    assert [path.name[0] for path in (nowhere / "llama.cpp").iterdir() if path.is_dir()] == ["b"]


def test_the_named_folder_wins_over_everything(monkeypatch: pytest.MonkeyPatch, engine: Engine, tmp_path: Path) -> None:
    for name in PROGRAMS:
        (tmp_path / name).symlink_to(engine.program(name))
    monkeypatch.setenv("SLM_LLAMA_CPP", str(tmp_path))
    assert llama_cpp.locate() == Engine(tmp_path, engine.version)


def test_programs_on_path_are_used(monkeypatch: pytest.MonkeyPatch, engine: Engine, tmp_path: Path) -> None:
    monkeypatch.delenv("SLM_LLAMA_CPP", raising=False)
    monkeypatch.setenv("SLM_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{engine.folder}:{os.environ['PATH']}")
    assert llama_cpp.locate().folder == engine.folder


def test_an_incomplete_named_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLM_LLAMA_CPP", str(tmp_path))
    with pytest.raises(BadInput) as caught:
        llama_cpp.locate()
    assert caught.value.reason is Reason.ENGINE_MISSING
    assert f"SLM_LLAMA_CPP names {tmp_path}, which lacks llama-server, llama-quantize" in caught.value.message
    assert caught.value.message.count("one of three ways") == 1


def test_no_mirror_in_the_sources_is_bad_input(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "machine_sources", list)
    with pytest.raises(BadInput) as caught:
        llama_cpp.locate()
    assert caught.value.reason is Reason.ENGINE_MISSING
    assert "apt has no Debian mirror in its sources" in caught.value.message
    assert "set SLM_LLAMA_CPP" in caught.value.message
    assert list((nowhere / "llama.cpp").glob("*/")) == []


@pytest.mark.usefixtures("nowhere")
def test_an_unreachable_mirror_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = DebianSource("http://127.0.0.1:9/debian", DEFAULT_KEYRING)
    monkeypatch.setattr(llama_cpp, "machine_sources", lambda: [dead])
    with pytest.raises(Retryable) as caught:
        llama_cpp.locate()
    assert caught.value.reason is Reason.ENGINE_MISSING
    assert "apt-get update" in caught.value.message


def test_unsigned_packages_are_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "no-keys.gpg").touch()
    unsigned = [DebianSource(source.mirror, str(tmp_path / "no-keys.gpg")) for source in machine_sources()]
    monkeypatch.setattr(llama_cpp, "machine_sources", lambda: unsigned)
    with pytest.raises(Retryable) as caught:
        llama_cpp.locate()
    assert "not signed" in caught.value.message
    assert list(nowhere.glob("llama.cpp/b*")) == []


def test_a_cache_folder_that_cannot_be_made_is_bad_input(nowhere: Path) -> None:
    nowhere.write_text("in the way")
    command = [sys.executable, "-m", "slm_pipelines.tools.llama_cpp"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.startswith(f"EngineMissing: llama.cpp cannot be installed into {nowhere}/llama.cpp: Not a dir")


def test_mirrors_are_read_from_both_kinds_of_sources(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://off.example/debian a main\n"
        "deb [arch=amd64 signed-by=/keys/a.gpg] http://one.example/debian trixie main\n"
        "deb http://one.example/debian-security trixie-security main\n"
        "deb https://other.example/tools stable main\n"
    )
    (parts / "two.sources").write_text(
        "Types: deb deb-src\nURIs: http://two.example/debian\nSuites: trixie\nComponents: main\n"
        "Signed-By: /keys/b.gpg\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n"
    )
    assert machine_sources(tmp_path) == [
        DebianSource("http://one.example/debian", "/keys/a.gpg"),
        DebianSource("http://two.example/debian", "/keys/b.gpg"),
    ]


# Threads


@pytest.mark.parametrize(
    ("listing", "files", "threads"),
    [
        ("0::/pod/box", {"pod/box/cpu.max": "150000 100000", "pod/cpu.max": "max 100000"}, 1),
        ("0::/pod/box", {"pod/box/cpu.max": "max 100000", "cpu.max": "20000 100000"}, 1),
        ("5:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "190000", "cpu/a/cpu.cfs_period_us": "100000"}, 1),
        ("5:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/gone", {}, None),
    ],
)
def test_threads_follow_the_tightest_quota(
    tmp_path: Path, listing: str, files: dict[str, str], threads: int | None
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(listing + "\n")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert cpu_threads(tmp_path, tmp_path / "fs") == (threads or len(os.sched_getaffinity(0)))


# Quantize


@pytest.mark.parametrize(("asked", "made"), [("Q4_0", "Q4_0"), ("q8_0", "Q8_0"), ("Q4_K", "Q4_K_M")])
def test_quantize_makes_a_smaller_file_once(store: Store, model: str, asked: str, made: str) -> None:
    spec = QuantizeSpec(gguf=model, type=asked, store=str(store.folder))
    first = quantize.run(spec, REPORTER)
    again = quantize.run(spec.model_copy(update={"type": made}), REPORTER)
    assert (first.cached, again.cached) == (False, True)
    assert again == first.model_copy(update={"cached": True})
    ((name, path),) = store.files(first.manifest).items()
    (source,) = store.files(model).values()
    assert name == f"model-{made}.gguf"
    assert path.stat().st_size == first.size_bytes < source.stat().st_size * 0.7
    lineage = store.manifest(first.manifest).lineage
    assert (lineage["type"], lineage["tool"]) == (made, first.tool)
    assert list((store.folder / "tmp").iterdir()) == []


def test_quantize_reports_tensors(store: Store, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(store, model, "Q4_0")
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["done"], last["total"], last["unit"]) == (21, 21, "tensors")


@pytest.mark.parametrize(
    ("hidden", "type_name", "reason", "words"),
    [
        (256, "Q4_K_X", Reason.UNKNOWN_TYPE, "did you mean Q4_K"),
        (256, "../evil", Reason.UNKNOWN_TYPE, "choose one of"),
        (256, "COPY", Reason.UNKNOWN_TYPE, "makes no quantization type 'COPY'"),
        (96, "Q4_K_M", Reason.TYPE_NOT_APPLICABLE, "token_embd.weight have 96 values, which do not divide into blocks"),
        (96, "Q6_K", Reason.TYPE_NOT_APPLICABLE, "blocks of 256: choose Q8_0, Q5_1 or Q4_0."),
        (96, "Q1_0", Reason.TYPE_NOT_APPLICABLE, "blocks of 128"),
        (48, "Q4_0", Reason.TYPE_NOT_APPLICABLE, "have 48 values, which do not divide into blocks of 32: choose F16"),
        (256, "MXFP4_MOE", Reason.TYPE_NOT_APPLICABLE, "experts of a mixture-of-experts model"),
        (256, "NVFP4", Reason.TYPE_NOT_APPLICABLE, "NVFP4 cannot be made"),
        (256, "IQ2_XXS", Reason.TYPE_NOT_APPLICABLE, "needs an importance matrix from calibration"),
        (256, "IQ1_S", Reason.TYPE_NOT_APPLICABLE, "needs an importance matrix from calibration"),
    ],
)  # fmt: skip
def test_quantize_refuses_what_the_tool_would_not_make(
    store: Store, tmp_path: Path, hidden: int, type_name: str, reason: Reason, words: str
) -> None:
    with pytest.raises(BadInput) as caught:
        make(store, store_model(store, tmp_path, hidden), type_name)
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_small_block_type_fits_where_a_large_one_does_not(store: Store, tmp_path: Path) -> None:
    assert store.files(make(store, store_model(store, tmp_path, 96), "Q4_0"))


def test_quantize_refuses_an_already_quantized_source(store: Store, model: str) -> None:
    with pytest.raises(BadInput) as caught:
        make(store, make(store, model, "Q8_0"), "Q4_0")
    assert caught.value.reason is Reason.TYPE_NOT_APPLICABLE
    assert "the source is already quantized (output.weight is Q8_0)" in caught.value.message


def spoiled(store: Store, folder: Path, kept: float) -> str:
    """A manifest of a GGUF that ends too early."""
    whole = write_model(folder / "whole.gguf").read_bytes()
    blob = store.add_bytes(whole[: int(len(whole) * kept)], "model-F16.gguf")
    return store.add_manifest(StoredManifest("gguf", (blob,)))


@pytest.mark.parametrize("kept", [0, 0.001, 0.9])
@pytest.mark.parametrize(
    ("step", "spec"),
    [
        (quantize.run, lambda gguf, store: QuantizeSpec(gguf=gguf, type="Q4_0", store=store)),
        (evaluate.run, lambda gguf, store: EvaluateSpec(gguf=gguf, store=store)),
        (evaluate.run, lambda gguf, store: EvaluateSpec(gguf=gguf, baseline=gguf, store=store)),
        (benchmark.run, lambda gguf, store: BenchmarkSpec(gguf=gguf, store=store)),
    ],
)
def test_a_truncated_file_is_bad_input(
    store: Store,
    tmp_path: Path,
    kept: float,
    step: Callable[[Message, Reporter], object],
    spec: Callable[[str, str], Message],
) -> None:
    with pytest.raises(BadInput) as caught:
        step(spec(spoiled(store, tmp_path, kept), str(store.folder)), REPORTER)
    assert caught.value.reason is Reason.INVALID_GGUF
    assert "Fetch or convert the model again" in caught.value.message


def test_a_manifest_without_one_gguf_is_refused(store: Store) -> None:
    manifest = store.add_manifest(StoredManifest("model", (store.add_bytes(b"{}", "config.json"),)))
    with pytest.raises(BadInput) as caught:
        make(store, manifest, "Q4_0")
    assert caught.value.reason is Reason.INVALID_GGUF
    assert "Exactly one GGUF file is needed" in caught.value.message


# Evaluate


def measure(store: Store, gguf: str, **more: object) -> EvaluateResult:
    settings = {"gguf": gguf, "store": str(store.folder), "context_size": 128, "chunks": 4, **more}
    return evaluate.run(EvaluateSpec.model_validate(settings), REPORTER)


def test_fewer_bits_lose_more_and_figures_are_measured_once(store: Store, model: str) -> None:
    base = measure(store, model, baseline=model)
    eight = measure(store, make(store, model, "Q8_0"), baseline=model)
    four = measure(store, make(store, model, "Q4_0"), baseline=model)
    two = measure(store, make(store, model, "Q2_K"), baseline=model)
    assert (base.kl_divergence, base.top_one_agreement, base.chunks) == (0.0, 1.0, 4)
    assert measure(store, model).perplexity == base.perplexity > 1
    losses = [result.kl_divergence or 0.0 for result in (eight, four, two)]
    assert 0 < losses[0] < losses[1] < losses[2]
    agreements = [result.top_one_agreement or 0.0 for result in (base, eight, four, two)]
    assert agreements == sorted(agreements, reverse=True)
    assert 0 < agreements[-1] < 1
    again = measure(store, make(store, model, "Q4_0"), baseline=model)
    assert again == four.model_copy(update={"cached": True})
    kinds = [json.loads(path.read_bytes())["recipe"]["step"] for path in (store.folder / "recipes").iterdir()]
    assert kinds.count("logits") == 1


def test_the_text_limits_the_chunks(store: Store, model: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All work and no play makes a dull text indeed. " * 9)
    assert measure(store, model, text=str(text), chunks=9).chunks == 3


def test_the_shipped_text_has_sixteen_chunks_for_the_largest_vocabulary(store: Store) -> None:
    text = evaluate.read_text(EvaluateSpec(gguf="", store=str(store.folder))).path.read_text()
    assert len(text.split()) > 16 * 512  # A token is at most a word with its space.


def test_a_short_text_is_refused_with_the_counts(store: Store, model: str, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("x" * 255)
    with pytest.raises(BadInput) as caught:
        measure(store, model, text=str(text))
    assert caught.value.reason is Reason.TEXT_TOO_SHORT
    assert "has 255 tokens for this model; 2 chunks of 128 need 256" in caught.value.message


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read: No such file"), (b"caf\xe9", "is not UTF-8")])
def test_an_unusable_text_is_refused(
    store: Store, model: str, tmp_path: Path, content: bytes | None, words: str
) -> None:
    text = tmp_path / "text.txt"
    if content:
        text.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        measure(store, model, text=str(text))
    assert caught.value.reason is Reason.TEXT_NOT_FOUND
    assert words in caught.value.message


def test_chunks_that_measure_nothing_are_refused(store: Store, model: str) -> None:
    with pytest.raises(BadInput) as caught:
        measure(store, model, context_size=0)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert "contextSize 0 and chunks 4 measure nothing" in caught.value.message


def fake_engine(folder: Path, engine: Engine, script: str) -> Engine:
    """The real engine with a llama-perplexity in front that misbehaves."""
    for name in PROGRAMS:
        (folder / name).symlink_to(engine.program(name))
    wrapper = folder / "llama-perplexity"
    wrapper.unlink()
    wrapper.write_text(f"#!/bin/sh\n{script.format(real=engine.program('llama-perplexity'), folder=folder)}\n")
    wrapper.chmod(0o755)
    return Engine(folder, engine.version)


def test_lost_last_lines_are_measured_again(
    store: Store, model: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'echo x >> {folder}/runs; [ $(wc -l < {folder}/runs) -gt 2 ] || exit 0; exec {real} "$@"'
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(evaluate, "locate", lambda _: fake_engine(tmp_path / "bin", engine, script))
    assert measure(store, model).perplexity > 1


def test_figures_that_never_come_fail_the_step(
    store: Store, model: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(evaluate, "locate", lambda _: fake_engine(tmp_path / "bin", engine, "exit 0"))
    with pytest.raises(Retryable) as caught:
        measure(store, model)
    assert caught.value.reason is Reason.MEASUREMENT_FAILED
    assert "ran 12 times and never printed all of perplexity" in caught.value.message


def test_a_killed_engine_is_tried_again_with_advice(
    store: Store, model: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(evaluate, "locate", lambda _: fake_engine(tmp_path / "bin", engine, "kill -9 $$"))
    with pytest.raises(Retryable) as caught:
        measure(store, model)
    assert caught.value.reason is Reason.STEP_FAILED
    assert "llama-perplexity was killed by SIGKILL, most often for lack of memory" in caught.value.message


def test_logits_need_room_before_they_are_written(store: Store, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(store.folder)._replace(free=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Retryable) as caught:
        measure(store, model, baseline=model)
    assert caught.value.reason is Reason.INSUFFICIENT_SPACE
    assert "The baseline's logits needs" in caught.value.message
    assert logits_size_bytes(258, 512, 16) == 2_170_708


# Benchmark


def test_benchmark_measures_once_per_machine(store: Store, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BenchmarkSpec(
        gguf=model, prompt_tokens=16, generate_tokens=4, repetitions=1, threads=1, store=str(store.folder)
    )
    first = benchmark.run(spec, REPORTER)
    assert first.prompt_tokens_per_second > 0
    assert first.generate_tokens_per_second > 0
    assert (first.threads, first.cached) == (1, False)
    assert benchmark.run(spec, REPORTER) == first.model_copy(update={"cached": True})
    monkeypatch.setattr(benchmark, "cpu_model", lambda: "another machine")
    assert not benchmark.run(spec, REPORTER).cached


def test_a_quick_model_is_measured_more_often_and_a_slow_one_as_often_as_asked() -> None:
    assert benchmark.enough_repetitions([8000.0], tokens=400, asked=3) == 20
    assert benchmark.enough_repetitions([8000.0], tokens=32, asked=3) == benchmark.MAX_REPETITIONS
    assert benchmark.enough_repetitions([2.0], tokens=32, asked=3) == 3


def test_one_disturbed_sample_sets_neither_median_nor_spread() -> None:
    assert benchmark.spread([100.0, 101.0, 99.0, 100.0, 3.0]) < 1


def test_a_benchmark_of_nothing_is_refused(store: Store, model: str) -> None:
    spec = BenchmarkSpec(gguf=model, generate_tokens=0, store=str(store.folder))
    with pytest.raises(BadInput) as caught:
        benchmark.run(spec, REPORTER)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert "generateTokens 0" in caught.value.message


# Children


def test_a_killed_step_leaves_no_orphan() -> None:
    code = "from slm_pipelines.tools.child import run_tool; run_tool(['sh', '-c', 'echo; exec sleep 600'])"
    step = psutil.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (children := step.children()) or children[0].name() != "sleep":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    step.send_signal(signal.SIGKILL)
    step.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (1, [])


def test_settings_of_the_engine_in_the_environment_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "7")
    assert "LLAMA" not in run_tool(["env"]).output
