"""The image that a Dockerfile starts from: the public one, or where none can be pulled one made from apt's mirror."""

import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from docker.client import DockerClient
from docker.errors import APIError

from dev import apt
from dev.images.recipe import DIGEST_LENGTH, REGISTRY, Recipe
from slm_pipelines.tools.debian import SUITE, DebianSource, machine_sources

VARIANT = "essential"
"""Debian without apt: nothing is installed into it later. 16 MB less than minbase."""
LEFT_OUT = ("man", "locale", "info", "doc", "lintian", "bash-completion")
"""Folders of /usr/share that Debian's slim images lack too."""
SHELL = """\
set -eu
rm -rf "$1"/etc/apt/sources.list* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -rf "$1"/var/log/* "$1"/var/cache/debconf/*-old "$1"/var/cache/ldconfig/aux-cache
: >"$1/etc/resolv.conf"
: >"$1/etc/hostname"
"""
"""Takes away what this machine and its mirror left; the folder of the new system is its argument."""
IMPORT_CHANGES = ['CMD ["/bin/sh"]', "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class BaseFailed(Exception):
    """No base image can be had; the message says what to provide."""


@dataclass(frozen=True)
class Base:
    """What an image is built on."""

    reference: str
    """As the engine knows it."""
    complete: bool = False
    """Whether it brings every Debian package, so that the build needs no network."""


def choose_base(client: DockerClient, recipe: Recipe, cache: Path) -> Base:
    """The Dockerfile's own base, or where it cannot be had one with all packages; raises BaseFailed, NotInstalled."""
    public = recipe.arguments["BASE"]
    if not (problem := _pull_problem(client, public)):
        return Base(public)
    sys.stderr.write(f"    {public} cannot be pulled ({problem}): a base from this machine's apt mirror\n")
    tag = _digest(recipe)
    repository = f"{REGISTRY}/base-{recipe.name}"
    reference = f"{repository}:{tag}"
    if not client.images.list(reference):
        archive = _archive(recipe, cache / f"base-{recipe.name}-{tag}.tar")
        client.api.import_image_from_file(str(archive), repository=repository, tag=tag, changes=IMPORT_CHANGES)
        client.images.get(reference)
    return Base(reference, complete=True)


def _pull_problem(client: DockerClient, reference: str) -> str:
    """Why the engine cannot have an image; empty when it has it now."""
    if client.images.list(reference):
        return ""
    try:
        client.images.pull(*reference.split(":"))
    except APIError as problem:
        return str(problem.explanation or problem).rsplit(": ", 1)[-1]  # The last part is the cause.
    return ""


def _digest(recipe: Recipe) -> str:
    made_from = (SUITE, VARIANT, *LEFT_OUT, SHELL, *recipe.packages)
    return hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:DIGEST_LENGTH]


def _archive(recipe: Recipe, target: Path) -> Path:
    """A root file system with the recipe's packages, in the cache whole or not at all."""
    if target.exists():
        return target
    apt.require("mmdebstrap", "mmdebstrap", "No base image can be pulled, so that one has to be made")
    sources = machine_sources()
    if not sources:
        raise BaseFailed("apt has no Debian mirror in its sources: pass an image, make images BASE=...")
    sys.stderr.write(f"==> Debian {SUITE} with {' '.join(recipe.packages)} (once; kept in {target.parent})\n")
    began = time.monotonic()
    scratch = target.with_name(f".{target.name}")
    try:
        done = subprocess.run(_command(recipe, sources[0], scratch), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BaseFailed(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    sys.stderr.write(f"    {target.stat().st_size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s\n")
    return target


def _command(recipe: Recipe, source: DebianSource, target: Path) -> list[str]:
    command = [
        "mmdebstrap",
        "--quiet",
        f"--variant={VARIANT}",
        "--format=tar",
        f"--include={','.join(recipe.packages)}",
    ]
    command += [f"--keyring={source.keyring}", "--customize-hook=" + SHELL]
    # A suite in the making is not always signed anew in time.
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"']
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    return [*command, SUITE, str(target), source.mirror]
