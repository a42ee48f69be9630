"""Where the local backend keeps what."""

from dataclasses import dataclass
from pathlib import Path

from slm_operator.settings import Settings


@dataclass(frozen=True)
class LocalPaths:
    """Folders of one local backend; nothing is created by asking."""

    state: Path
    data: Path
    cache: Path

    @staticmethod
    def of(settings: Settings) -> "LocalPaths":
        """The folders that the settings name."""
        return LocalPaths(settings.state_home, settings.data_home, settings.cache_home)

    @property
    def database(self) -> Path:
        """SQLite file with the objects and events."""
        return self.state / "objects.db"

    @property
    def processes(self) -> Path:
        """SQLite file with the processes that were started."""
        return self.state / "processes.sqlite"

    @property
    def lock(self) -> Path:
        """File the running daemon holds locked; its content is the daemon's process id."""
        return self.state / "daemon.lock"

    @property
    def daemon_log(self) -> Path:
        """What the daemon prints."""
        return self.state / "daemon.log"

    @property
    def gateway_lock(self) -> Path:
        """File the running gateway holds locked; its content is the gateway's process id and port."""
        return self.state / "gateway.lock"

    @property
    def gateway_log(self) -> Path:
        """What the gateway prints."""
        return self.state / "gateway.log"

    @property
    def logs(self) -> Path:
        """Folder of the logs of pods: ``<namespace>_<pod>/0.log``."""
        return self.state / "logs"

    @property
    def states(self) -> Path:
        """Folder that names the state folders whose objects refer to the store, one file for each."""
        return self.data / "states"

    @property
    def store(self) -> Path:
        """Folder of the content-addressed store."""
        return self.data / "store"
