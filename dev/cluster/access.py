"""A cluster as its users see it: a kubeconfig, and kubectl beside it."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dev.cluster import build
from dev.cluster.versions import chosen_version

KUBECTL_SECONDS = 600
LOAD_COMMAND = "SLM_LOAD_IMAGE"
"""Environment variable with the command that gives a foreign cluster an image; the archive's path is appended to it."""


class CannotLoadImages(Exception):
    """Nobody said how a foreign cluster gets images."""


class Access:
    """Who may do something to a cluster, and how; whose cluster it is does not matter."""

    def __init__(self, kubeconfig: Path, kubectl: Sequence[str]) -> None:
        self.kubeconfig = kubeconfig
        self.command = tuple(kubectl)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of kubectl; raises CalledProcessError."""
        command = [*self.command, "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=KUBECTL_SECONDS
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def load_image(self, archive: Path) -> None:
        """Give the nodes an image from an OCI or Docker archive; raises CannotLoadImages, CalledProcessError."""
        command = os.environ.get(LOAD_COMMAND, "")
        if not command:
            raise CannotLoadImages(f"set {LOAD_COMMAND}, for example to 'kind load image-archive'")
        subprocess.run([*shlex.split(command), str(archive)], check=True, capture_output=True, text=True)


@contextmanager
def foreign_access(kubeconfig: str) -> Iterator[Access]:
    """A cluster that somebody else runs, by the value of KUBECONFIG; raises CalledProcessError when it is no use.

    Several files are merged, and only the current context is kept: what runs beside the tests, such as a proxy, reads
    one plain file. It holds credentials, so it goes away with the access.
    """
    kubectl = kubectl_command()
    command = [*kubectl, "config", "view", "--raw", "--flatten", "--minify"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": kubeconfig}
    )
    with TemporaryDirectory(prefix="slm-kubeconfig-") as folder:
        path = Path(folder) / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(done.stdout)
        yield Access(path, kubectl)


def kubectl_command() -> list[str]:
    """Argv of a kubectl: the one that was built here, else the one on PATH, else built now; raises BuildFailed."""
    built = build.kubernetes_path(chosen_version())
    if not built.exists() and (found := shutil.which("kubectl")):
        return [found]
    return [str(build.kubernetes(chosen_version())), "kubectl"]
