"""Build what has changed, and keep each image as an archive that Docker and containerd load."""

import contextlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import DockerException

from dev.apt import NotInstalled
from dev.cluster import build as programs
from dev.cluster.processes import StartFailed
from dev.images.base import Base, BaseFailed, choose_base
from dev.images.context import ContextFailed, pack, write_context
from dev.images.engine import Engine, EngineMissing, open_engine, running_engine
from dev.images.recipe import RECIPES, REGISTRY, Recipe, project_version

KEPT_ARCHIVES = 6
"""Of each image; the oldest go first. Several work trees share the folder."""
SHOWN_LINES, SHOWN_WIDTH = 30, 110
EPOCH_SECONDS = int(os.environ.get("SOURCE_DATE_EPOCH") or 1767225600)
"""Time of every file that we put into an image; the Dockerfiles' default too."""


class BuildFailed(Exception):
    """An image could not be built; the message ends with what the engine said."""


FAILURES = (NotInstalled, StartFailed, BaseFailed, BuildFailed, ContextFailed, EngineMissing, DockerException)
"""Whatever keeps an image from being built; each message says what to do."""


@dataclass(frozen=True)
class Built:
    """One image, as its archive tells."""

    reference: str
    digest: str
    """Of its configuration, which names all of its layers: what an engine calls the image's id."""
    size_bytes: int
    """Of its layers, uncompressed."""


def cache_folder() -> Path:
    """Where archives and bases stay, beside the cluster's programs; ``SLM_CACHE_HOME`` moves it."""
    return programs.cache_folder().parent / "images"


def build_images(names: Iterable[str] = tuple(RECIPES), base: str = "") -> dict[str, Path]:
    """Image name to archive; what is there already for the same inputs is not built again, and needs no engine.

    ``base`` replaces the base image of every Dockerfile. Raises BuildFailed, BaseFailed, ContextFailed, EngineMissing,
    NotInstalled or StartFailed.
    """
    archives = {name: archive_path(RECIPES[name], base) for name in names}
    missing = [name for name, path in archives.items() if not path.exists()]
    if missing:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with open_engine() as engine:
            for name in missing:
                build_image(engine, RECIPES[name], base, archives[name])
    for path in archives.values():
        path.touch()
    return archives


def archive_path(recipe: Recipe, base: str = "") -> Path:
    """Where the archive of an image with these inputs lies once it is built."""
    return cache_folder() / f"{recipe.name}-{recipe.digest(base)}.tar"


def build_image(engine: Engine, recipe: Recipe, base: str, archive: Path) -> None:
    """Build one image and save it, whole or not at all."""
    began = time.monotonic()
    reference = recipe.reference(base)
    sys.stderr.write(f"==> Building {reference}\n")
    chosen = Base(base) if base else choose_base(engine.client, recipe, cache_folder())
    run_build(engine, recipe, chosen, reference)
    scratch = archive.with_name(f".{archive.name}-{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            for chunk in engine.client.api.get_image(reference):
                file.write(chunk)
        scratch.rename(archive)
    finally:
        scratch.unlink(missing_ok=True)
    _prune(recipe)
    sys.stderr.write(f"    {describe(archive).size_bytes / 1e6:.0f} MB in {time.monotonic() - began:.0f} s\n")


def run_build(engine: Engine, recipe: Recipe, base: Base, reference: str, *, use_cache: bool = True) -> None:
    """Build under a name; raises BuildFailed with the end of what the build printed."""
    arguments = {"BASE": base.reference, "VERSION": project_version(), "REVISION": recipe.revision()}
    arguments["SOURCE_DATE_EPOCH"] = str(EPOCH_SECONDS)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as context:
        write_context(recipe, Path(folder))
        pack(Path(folder), context, EPOCH_SECONDS)
        context.seek(0)
        steps = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            tag=reference,
            buildargs=arguments,
            network_mode="none" if base.complete else engine.network,
            nocache=not use_cache,
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(steps, recipe)


def _follow(steps: Iterable[dict[str, Any]], recipe: Recipe) -> None:
    """Tell each step that may take long, as it begins."""
    said: list[str] = []
    for step in steps:
        text = str(step.get("stream") or step.get("error") or "").rstrip()
        if re.match(r"Step \S+ : (FROM|RUN|COPY) ", text):  # The others take no time.
            sys.stderr.write(f"    {' '.join(text.split())[:SHOWN_WIDTH]}\n")
        said += text.splitlines()
        if "error" in step:
            raise BuildFailed(f"{recipe.name} could not be built:\n" + "\n".join(said[-SHOWN_LINES:]))


def _prune(recipe: Recipe) -> None:
    found = sorted(cache_folder().glob(f"{recipe.name}-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT_ARCHIVES]:
        path.unlink(missing_ok=True)


def describe(archive: Path) -> Built:
    """Read an archive that ``docker save`` wrote."""
    with tarfile.open(archive) as file:
        (image,) = json.loads(b"".join(file.extractfile("manifest.json") or ()))
        sizes = {member.name: member.size for member in file}
        digest = Path(image["Config"]).stem
    return Built(image["RepoTags"][0], f"sha256:{digest}", sum(sizes[name] for name in image["Layers"]))


def clean() -> list[str]:
    """Take away archives, bases, and images of ours that a running engine holds; returns what was removed."""
    removed = [str(path) for path in sorted(cache_folder().glob("*.tar"))]
    shutil.rmtree(cache_folder(), ignore_errors=True)
    with contextlib.suppress(DockerException), contextlib.closing(running_engine()) as client:
        for image in client.images.list(filters={"reference": f"{REGISTRY}/*"}):
            client.images.remove(image.id, force=True)
            removed += image.tags
    return removed
