"""What an image is made from, without building one: tags, contexts, and what is said where none can be built."""

import os
import tarfile
from pathlib import Path

import pytest
from docker.errors import DockerException

from dev.images import engine
from dev.images.context import ContextFailed, install_packages, pack, write_context
from dev.images.engine import EngineMissing, open_engine
from dev.images.recipe import RECIPES, ROOT, Recipe

ELF_MACHINES = {"amd64": 62, "arm64": 183}
"""e_machine of elf(5): EM_X86_64 and EM_AARCH64."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """One image in a tree of its own."""
    monkeypatch.setattr("dev.images.recipe.ROOT", tmp_path)
    monkeypatch.setattr(Recipe, "own_files", lambda _: [])
    monkeypatch.setattr("dev.images.recipe.project_version", lambda: "1")
    (tmp_path / "image").mkdir()
    (tmp_path / "image/Dockerfile").write_text('ARG BASE=some:base\nFROM ${BASE}\nARG PACKAGES="one two"\n')
    (tmp_path / "source").mkdir()
    (tmp_path / "source/code.py").write_text("a = 1\n")
    return Recipe("image", tmp_path / "image", sources=(tmp_path / "source",))


def test_arguments_come_from_the_dockerfile(recipe: Recipe) -> None:
    assert recipe.arguments == {"BASE": "some:base", "PACKAGES": "one two"}
    assert recipe.packages == ["one", "two"]


def test_the_tag_follows_every_input_and_nothing_else(recipe: Recipe) -> None:
    tag = recipe.digest()
    (recipe.sources[0] / "__pycache__").mkdir()
    (recipe.sources[0] / "__pycache__/code.pyc").write_bytes(b"x")
    os.utime(recipe.sources[0] / "code.py", (1, 1))
    assert recipe.digest() == tag
    assert recipe.digest("other:base") != tag
    assert recipe.digest(architecture="arm64") != recipe.digest(architecture="amd64")
    (recipe.sources[0] / "code.py").write_text("a = 2\n")
    assert recipe.digest() != tag


def test_every_image_names_its_base_and_packages_once() -> None:
    for recipe in RECIPES.values():
        assert recipe.arguments["BASE"] == "debian:forky-slim"
        assert recipe.packages
        assert recipe.reference() == f"slm.local/{recipe.name}:{recipe.digest()}"


@pytest.mark.parametrize("architecture", ELF_MACHINES)
@pytest.mark.parametrize("name", ["slm-operator", "slm-pipelines"])
def test_a_context_holds_packages_for_either_architecture(name: str, architecture: str, tmp_path: Path) -> None:
    write_context(RECIPES[name], tmp_path, architecture)
    native = list((tmp_path / "packages").rglob("*.cpython-314-*.so"))
    assert native
    assert {path.read_bytes()[18] for path in native} == {ELF_MACHINES[architecture]}
    assert {path.name for path in (tmp_path / "source").iterdir() if path.suffix != ".dist-info"} == {
        path.name for path in RECIPES[name].sources
    }
    assert not (tmp_path / "packages/bin").exists()


def test_no_context_names_this_machine(tmp_path: Path) -> None:
    write_context(RECIPES["slm-operator"], tmp_path)
    told = [path for path in tmp_path.rglob("*") if path.is_file() and str(ROOT).encode() in path.read_bytes()]
    assert told == []


def test_a_wheel_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("jinja2==3.1.6 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ContextFailed, match=r"lock.txt for Python 3.14 on arm64:") as caught:
        install_packages(lock, "3.14", "arm64", tmp_path / "packages")
    assert "Hash mismatch" in str(caught.value)


def test_a_context_is_the_same_bytes_whoever_packs_it(tmp_path: Path) -> None:
    for number, mode in enumerate((0o600, 0o664)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_text("text")
        (folder / "file").chmod(mode)
        os.utime(folder / "file", (number, number))
        with (tmp_path / f"{number}.tar").open("wb") as target:
            pack(folder, target, 7)
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        assert [(entry.name, entry.mode, entry.mtime, entry.uid) for entry in archive] == [("file", 0o644, 7, 0)]


@pytest.mark.parametrize(
    ("host", "said", "message"),
    [
        ("unix:///nowhere", "no such file", "DOCKER_HOST names an engine that does not answer: no such file"),
        ("", "Permission denied", "A Docker engine runs but this user may not use it: join the group docker, and"),
        ("", "no such file", "No Docker engine runs, and only root can start one: start yours, or set DOCKER_HOST"),
    ],
)
def test_an_engine_that_cannot_be_had_is_told(
    host: str, said: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise DockerException(said)

    monkeypatch.setattr(engine, "running_engine", absent)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineMissing, match=message), open_engine():
        pass
