"""What each image is made from, and the tag that follows from it."""

import hashlib
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "slm.local"
"""First part of the images' names in development: a place that nobody pulls from."""
DIGEST_LENGTH = 12
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What the kernel calls a machine, and what an image does."""


@dataclass(frozen=True)
class Recipe:
    """One image."""

    name: str
    """Such as ``slm-operator``."""
    folder: Path
    """Holds its Dockerfile and what that copies besides packages."""
    lock: Path | None = None
    """Python packages of others, with hashes."""
    sources: tuple[Path, ...] = ()
    """Python packages of ours."""

    @cached_property
    def arguments(self) -> dict[str, str]:
        """The Dockerfile's ARGs and their defaults; two stages give one the same."""
        found = re.findall(r'^ARG (\w+)=(?:"([^"]*)"|(\S+))$', (self.folder / "Dockerfile").read_text(), re.MULTILINE)
        return {name: quoted or bare for name, quoted, bare in found}

    @property
    def packages(self) -> list[str]:
        """Debian packages that the image holds."""
        return self.arguments["PACKAGES"].split()

    def inputs(self) -> list[Path]:
        """Every file the image depends on, in an order that is always the same."""
        roots = [self.folder, *self.sources]
        files = [path for root in roots for path in source_files(root)]
        return sorted([*files, *self.own_files(), *([self.lock] if self.lock else [])])

    def own_files(self) -> list[Path]:
        """The code that decides what gets into an image."""
        return [Path(__file__).with_name(name) for name in ("base.py", "context.py")]

    def digest(self, base: str = "", architecture: str = "") -> str:
        """The tag: changes with any input, with a chosen base and with the architecture."""
        total = hashlib.sha256(f"{base} {architecture or machine()} {project_version()}".encode())
        for path in self.inputs():
            total.update(f"\n{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        return total.hexdigest()[:DIGEST_LENGTH]

    def reference(self, base: str = "") -> str:
        """Name and tag, as a pod spells them."""
        return f"{REGISTRY}/{self.name}:{self.digest(base)}"

    def revision(self) -> str:
        """The commit that last changed an input; ``unknown`` outside a clone."""
        paths = [str(path) for path in (self.folder, *self.sources, *([self.lock] if self.lock else []))]
        return _git("log", "-1", "--format=%H", "--", *paths) or "unknown"


CONTRACT = ROOT / "pipelines/slm_contract"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "slm-operator",
            ROOT / "images/operator",
            ROOT / "requirements/operator.txt",
            (ROOT / "operator/slm_operator", CONTRACT),
        ),
        Recipe(
            "slm-pipelines",
            ROOT / "images/pipelines",
            ROOT / "requirements/pipelines.txt",
            (ROOT / "pipelines/slm_pipelines", CONTRACT),
        ),
        Recipe("llama-cpp", ROOT / "images/llama-cpp"),
    )
}


def references() -> dict[str, str]:
    """Image name to the reference that pods of this work tree use."""
    return {name: recipe.reference() for name, recipe in RECIPES.items()}


def source_files(root: Path) -> Iterator[Path]:
    """Files below a folder, in order, without what Python leaves there."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def machine() -> str:
    """The architecture we run on, as images call it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def project_version() -> str:
    """As pyproject.toml has it."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
