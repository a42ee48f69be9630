"""The images as pods run them: no root, nothing writable but /tmp, no network, no capability."""

import contextlib
import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from docker.client import DockerClient
from docker.errors import ContainerError

from dev.apt import NotInstalled
from dev.cluster.node import controllers, mounts
from dev.images import build
from dev.images.base import Base, BaseFailed, choose_base
from dev.images.build import BuildFailed, build_images, describe
from dev.images.engine import CGROUP, KEY, Engine, EngineMissing, engine_lock, folder, open_engine
from dev.images.recipe import RECIPES, REGISTRY, project_version
from slm_contract.specs import ConvertSpec, QuantizeSpec
from slm_pipelines.store import Store
from tests.support.models import write_model
from tests.support.stored import store_folder

pytestmark = pytest.mark.timeout(1800)  # The first build on a machine makes three bases.
USER = 65532
RESTRICTED: dict[str, Any] = {
    "read_only": True,
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - the only place where a pod may write
    "pids_limit": 256,
}
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    found = importlib.import_module(name)
    for each in pkgutil.walk_packages(getattr(found, "__path__", []), name + "."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)
            print(each.name)
"""
Run = Callable[..., str]
NAMES = tuple(RECIPES)


@pytest.fixture(scope="module")
def archives() -> dict[str, Path]:
    """All three, built when they are not there yet."""
    try:
        return build_images()
    except (EngineMissing, NotInstalled, BaseFailed) as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def engine(archives: dict[str, Path]) -> Iterator[Engine]:
    """An engine that has loaded the archives."""
    with open_engine() as engine:
        for path in archives.values():
            with path.open("rb") as file:
                engine.client.images.load(iter(lambda: file.read(1 << 20), b""))
        yield engine


@pytest.fixture(scope="module")
def references(archives: dict[str, Path]) -> dict[str, str]:
    return {name: describe(path).reference for name, path in archives.items()}


@pytest.fixture(scope="module")
def run(engine: Engine, references: dict[str, str]) -> Run:
    """Runs a command in an image as a restricted pod would; returns what it printed, or raises ContainerError."""

    def run_restricted(name: str, *command: str, **more: Any) -> str:
        options = {**RESTRICTED, **more, "entrypoint": command[:1], "command": list(command[1:])}
        client: DockerClient = engine.client
        printed: bytes = client.containers.run(references[name], remove=True, stdout=True, stderr=True, **options)
        return printed.decode()

    return run_restricted


def as_user(folder: Path) -> Path:
    """Give a folder to the images' user, as fsGroup gives a volume."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    return folder


def test_our_own_engine_leaves_nothing_behind() -> None:
    before = traces_without_engine()
    with open_engine() as engine:
        if engine.network != "host":
            pytest.skip("a Docker engine runs here already, so none of our own is started")
        assert engine.client.ping()
        assert traces() != before
    assert traces_without_engine() == before


def traces_without_engine() -> list[str]:
    """While no engine of ours runs: another test may have been waiting for its turn to start one."""
    with engine_lock():
        return traces()


def traces() -> list[str]:
    """Whatever an engine of ours could leave on the machine."""
    groups = [path for each in controllers() for path in each.glob(f"{CGROUP}*")]
    links = [path for path in Path("/sys/class/net").iterdir() if path.name.startswith(("docker", "br-"))]
    files = [path for path in (folder(), KEY, Path("/var/lib/docker")) if path.exists()]
    ours = [path for path in mounts() if "slm-images" in str(path) or path.is_relative_to(folder())]
    return sorted(str(path) for path in (*groups, *links, *files, *ours, *Path("/run").glob("slm-images-*")))


def test_a_second_build_needs_no_engine(archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_engine() -> contextlib.AbstractContextManager[Engine]:
        raise AssertionError("nothing has changed")

    monkeypatch.setattr(build, "open_engine", no_engine)
    assert build_images() == archives


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_root_and_only_tmp_is_writable(run: Run, name: str) -> None:
    script = "exec 2>&1; id -u; id -g; touch /tmp/a && echo tmp; "
    script += "for d in / /usr /etc /home /var /run; do touch $d/a; done; true"
    printed = run(name, "sh", "-c", script)
    assert printed.split()[:3] == ["65532", "65532", "tmp"]
    assert printed.count("Read-only file system") == 6


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_owned_by_the_user_or_gives_rights(run: Run, name: str) -> None:
    assert run(name, "sh", "-c", f"find / -xdev -user {USER} 2>/dev/null; true") == ""
    assert run(name, "sh", "-c", "find /usr/local /usr/lib/python3* -perm /6022 ! -type l 2>/dev/null; true") == ""


@pytest.mark.parametrize("name", NAMES)
def test_labels_say_what_it_is(engine: Engine, references: dict[str, str], name: str) -> None:
    image = engine.client.images.get(references[name])
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image.labels.items()}
    assert labels["title"] == name
    assert labels["version"] == project_version()
    assert labels["licenses"] in {"Apache-2.0", "MIT", "Apache-2.0 AND MIT"}
    assert labels["description"]
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert image.attrs["Config"]["User"] == "65532:65532"


@pytest.mark.parametrize("name", NAMES)
def test_no_host_and_no_leftover_gets_in(run: Run, engine: Engine, references: dict[str, str], name: str) -> None:
    history = json.dumps(engine.client.images.get(references[name]).history())
    assert "://" not in history
    places = "/etc/apt/sources.list* /var/lib/apt/lists/*_* /root/.cache /root/.local /layers /etc/apt/apt.conf.d/99*"
    assert run(name, "sh", "-c", f"ls -d {places} 2>/dev/null; true") == ""
    for tool in ("pip", "pip3", "uv", "gcc"):
        assert run(name, "sh", "-c", f"command -v {tool} || true") == "", tool


def test_the_operator_has_all_it_imports_and_nothing_of_the_steps(run: Run) -> None:
    modules = ("kopf", "kubernetes.aio", "aiohttp", "prometheus_client")
    printed = run("slm-operator", "python3", "-c", IMPORT_ALL, "slm_operator", "slm_contract")
    assert "slm_operator.core.plan_quantjob" in printed.split()
    run("slm-operator", "python3", "-c", f"import {', '.join(modules)}")
    for absent in ("slm_pipelines", "numpy", "matplotlib", "pip"):
        with pytest.raises(ContainerError, match=f"No module named .*{absent}"):
            run("slm-operator", "python3", "-c", f"import {absent}")
    assert run("slm-operator", "sh", "-c", "ls /usr/bin/llama-* 2>/dev/null; true") == ""
    for program in ("slm-operator", "slm-gateway"):
        assert f"usage: {program}" in run("slm-operator", program, "--help")


def test_imports_are_compiled_already(run: Run) -> None:
    """Or each start would take seconds on a root that keeps nothing."""
    script = "import sys, importlib.util, pathlib, kopf, kubernetes.aio, slm_operator.core.plan_quantjob\n"
    script += "files = [m.__cached__ for m in sys.modules.values() if getattr(m, '__cached__', '')]\n"
    script += "print(len(files) > 100, [f for f in files if not pathlib.Path(f).exists()])"
    assert run("slm-operator", "python3", "-W", "ignore", "-c", script).strip() == "True []"


def test_the_pipelines_have_all_they_import_and_no_operator(run: Run) -> None:
    printed = run("slm-pipelines", "python3", "-c", IMPORT_ALL, "slm_pipelines", "slm_contract", "matplotlib.figure")
    assert "slm_pipelines.steps.quantize" in printed.split()
    assert "Run one pipeline step" in run("slm-pipelines", "python3", "-m", "slm_pipelines", "--help")
    for absent in ("slm_operator", "kopf", "kubernetes"):
        with pytest.raises(ContainerError, match=f"No module named .*{absent}"):
            run("slm-pipelines", "python3", "-c", f"import {absent}")


def test_the_pipelines_find_llama_cpp_on_path(run: Run) -> None:
    printed = json.loads(run("slm-pipelines", "python3", "-m", "slm_pipelines.tools.llama_cpp"))
    assert printed["bin"] == "/usr/bin"
    assert re.fullmatch(r"llama\.cpp b\d+ \(\d+\.\d+\.\d+\)", printed["version"])


def test_a_model_is_converted_quantized_and_served(run: Run, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    store = Store(tmp_path / "store")
    model = store_folder(store, tmp_path / "model")
    volumes = {str(as_user(store.folder)): {"bind": "/store", "mode": "rw"}}

    def made_by(spec: ConvertSpec | QuantizeSpec) -> str:
        command = f"python3 -m slm_pipelines {spec.step} --spec-env SLM_SPEC --result /tmp/result"
        given = {"SLM_SPEC": spec.model_dump_json()}
        printed = run("slm-pipelines", "sh", "-c", f"{command} && cat /tmp/result", environment=given, volumes=volumes)
        return str(json.loads(printed.splitlines()[-1])["result"]["manifest"])

    source = made_by(ConvertSpec(model=model, store="/store"))
    variant = made_by(QuantizeSpec(gguf=source, type="Q4_0", store="/store"))
    (gguf,) = store.files(variant).values()
    volumes = {str(gguf): {"bind": "/model.gguf", "mode": "ro"}}
    server = "timeout 8 llama-server --host 127.0.0.1 --port 8080 --ctx-size 64 --model /model.gguf"
    script = f"exec 2>&1; llama-bench --list-devices; {server}; true"
    printed = run("llama-cpp", "sh", "-c", script, volumes=volumes)
    assert "loaded CPU backend" in printed
    assert "server: listening on" in printed


def test_the_engine_is_llama_server_without_python(run: Run) -> None:
    assert re.search(r"version: \d+\.\d+\.\d+ \(build \d+", run("llama-cpp", "llama-server", "--version"))
    assert run("llama-cpp", "sh", "-c", "ls /usr/bin/python3* 2>/dev/null; true") == ""
    backends = run("llama-cpp", "sh", "-c", "find /usr/lib -name 'libggml-cpu*.so' | wc -l")
    assert int(backends) > 1  # The best for the node's CPU is chosen at the start.


def test_the_same_inputs_make_the_same_layers(engine: Engine, references: dict[str, str]) -> None:
    recipe = RECIPES["slm-operator"]
    again = f"{REGISTRY}/{recipe.name}:again"
    build.run_build(engine, recipe, choose_base(engine.client, recipe, build.cache_folder()), again, use_cache=False)
    first, second = (files_in(engine, each) for each in (references[recipe.name], again))
    assert {name: (first.get(name), second.get(name)) for name in dict(first.items() ^ second.items())} == {}
    first_layers, second_layers = (
        engine.client.images.get(each).attrs["RootFS"]["Layers"] for each in (references[recipe.name], again)
    )
    assert first_layers == second_layers


def files_in(engine: Engine, reference: str) -> dict[str, tuple[Any, ...]]:
    """Every entry of every layer with all that is packed of it, so that a difference is told by its name."""
    found: dict[str, tuple[Any, ...]] = {}
    with tempfile.TemporaryFile() as archive:
        for chunk in engine.client.api.get_image(reference):
            archive.write(chunk)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as image:
            (manifest,) = json.load(extract(image, "manifest.json"))
            for number, layer in enumerate(manifest["Layers"]):
                with tarfile.open(fileobj=extract(image, layer)) as files:
                    for entry in files:
                        content = hashlib.sha256(extract(files, entry).read()).hexdigest() if entry.isreg() else ""
                        kind = (entry.type, entry.linkname, entry.mode, entry.uid, entry.gid, entry.mtime)
                        found[f"{number}/{entry.name}"] = (*kind, *sorted(entry.pax_headers.items()), content)
    return found


def extract(archive: tarfile.TarFile, entry: tarfile.TarInfo | str) -> IO[bytes]:
    file = archive.extractfile(entry)
    assert file is not None, entry
    return file


def test_a_base_without_what_is_needed_is_told(engine: Engine, references: dict[str, str]) -> None:
    with pytest.raises(BuildFailed, match="slm-operator could not be built") as caught:
        build.run_build(engine, RECIPES["slm-operator"], Base(references["llama-cpp"]), f"{REGISTRY}/wrong:1")
    assert "apt-get" in str(caught.value)
