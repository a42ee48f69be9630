"""Packages from Debian unpacked into a folder: no root, no change to the machine.

apt does what it is good at - it finds the newest versions, follows dependencies, and checks every file
against the signed Release - but with a private state, so it sees an empty machine and locks nothing.
"""

import getpass
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from slm_contract.reasons import Reason
from slm_pipelines.errors import BadInput, Retryable
from slm_pipelines.tools.child import ToolRun, run_tool

DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""Where the package debian-archive-keyring puts the archive's keys."""
SUITE = "forky"
"""First Debian release whose llama.cpp has all the tools the steps use."""
PROVIDED = ("wget",)
"""Dependencies that only a program we never start needs: apt is told that they are installed."""
UNWANTED = ("debconf", "libc-gconv-modules-extra")
"""Dependencies without a library that is loaded: versioned or alternative, so apt must keep them in its plan."""


@dataclass(frozen=True)
class DebianSource:
    """A mirror of the main archive and the file of keys that vouches for it."""

    mirror: str
    keyring: str


def _one_line_sources(text: str) -> list[DebianSource]:
    """Entries of a ``sources.list``: ``deb [option=value ...] URI SUITE COMPONENT...``."""
    found = []
    for match in re.finditer(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s", text, re.MULTILINE):
        options = dict(part.split("=", 1) for part in (match[1] or "").split() if "=" in part)
        found.append(DebianSource(match[2], options.get("signed-by", DEFAULT_KEYRING)))
    return found


def _paragraph_sources(text: str) -> list[DebianSource]:
    """Entries of a ``.sources`` file (deb822)."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {name.lower(): value.strip() for name, value in re.findall(r"^(\S+?):(.*)$", paragraph, re.MULTILINE)}
        keyring = fields.get("signed-by", "")
        keyring = keyring if keyring.startswith("/") else DEFAULT_KEYRING
        if fields.get("enabled", "yes").lower() != "no" and "deb" in fields.get("types", "").split():
            found += [DebianSource(uri, keyring) for uri in fields.get("uris", "").split()]
    return found


def machine_sources(etc: Path = Path("/etc/apt")) -> list[DebianSource]:
    """Mirrors this machine's apt uses for Debian's main archive, first named first."""
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    found = [source for path in lists if path.is_file() for source in _one_line_sources(path.read_text())]
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        found += _paragraph_sources(path.read_text())
    return [source for source in found if "debian" in source.mirror and "security" not in source.mirror]


class PrivateApt:
    """apt-get with all its state in one folder.

    Raises BadInput EngineMissing where this machine can never do it, Retryable EngineMissing when the mirror
    does not answer as it should.
    """

    def __init__(self, folder: Path, sources: list[DebianSource]) -> None:
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise BadInput(Reason.ENGINE_MISSING, f"{program} is not on this machine")
        if not sources:
            raise BadInput(Reason.ENGINE_MISSING, "apt has no Debian mirror in its sources")
        self._folder = folder
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        source = sources[0]
        (folder / "sources.list").write_text(f"deb [signed-by={source.keyring}] {source.mirror} {SUITE} main\n")
        pretended = (f"Package: {name}\nStatus: install ok installed\nVersion: 9999\n" for name in PROVIDED)
        architecture = run_tool(["dpkg", "--print-architecture"]).output.strip()
        (folder / "status").write_text("".join(f"{stanza}Architecture: {architecture}\n\n" for stanza in pretended))

    def _run(self, *arguments: str) -> ToolRun:
        settings = {
            "Dir::Etc::SourceList": self._folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::Etc::Preferences": "-",
            "Dir::Etc::PreferencesParts": "-",
            "Dir::State": self._folder / "state",
            "Dir::State::Lists": self._folder / "state/lists",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            "Acquire::Check-Valid-Until": "false",  # A suite in the making is not always signed anew in time.
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::Retries": "0",  # The step as a whole is tried again.
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": getpass.getuser() if os.getuid() == 0 else "",
            "Debug::NoLocking": "1",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        downloads = self._folder / "cache/archives"
        run = run_tool(["apt-get", *options, "-qq", *arguments], cwd=downloads)
        if run.code:
            errors = [line for line in run.output.splitlines() if line.startswith("E:")] or [run.complaint()]
            raise Retryable(Reason.ENGINE_MISSING, f"apt-get {arguments[0]}: {errors[0].removeprefix('E:').strip()}")
        return run

    def fetch(self, packages: list[str]) -> list[Path]:
        """Download the packages and what they depend on, verified; returns the ``.deb`` files."""
        self._run("update")
        plan = self._run("install", "--yes", "--no-install-recommends", "--print-uris", *packages).output
        names = [match[1] for match in re.finditer(r"^'\S+' ([^_\s]+)_", plan, re.MULTILINE)]
        self._run("download", *(name for name in names if name not in UNWANTED))
        return sorted((self._folder / "cache/archives").glob("*.deb"))


def unpack(packages: list[Path], root: Path) -> None:
    """Unpack ``.deb`` files below ``root``, without running their scripts."""
    for package in packages:
        run_tool(["dpkg", "-x", package, root]).require_success()
