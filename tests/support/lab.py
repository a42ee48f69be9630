"""A place to break things: a repository on a loopback hub, a store, and the three planners with real steps."""

import json
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slm_operator.api.registry import parse_resource
from slm_operator.core.plan import ObjectKey
from slm_operator.errors import InvalidManifest
from slm_pipelines.store import Store
from tests.support.hub import Hub
from tests.support.planning import manifest
from tests.support.real_steps import RealWorld, local_placement, store_content

REPO = "lab/tiny"


class Lab:
    """What a case of a table arranges, runs and looks at."""

    def __init__(self, folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder
        self.hub = hub
        self.repo = hub.root / REPO
        self.store = Store(folder / "store").folder
        self.world = RealWorld(placement=local_placement(self.store, hub.endpoint))
        self.refused = ""
        self.before = store_content(self.store)

    def put(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Apply a manifest as a user would; what the schema refuses is kept in ``refused``."""
        document = manifest(kind, name, spec)
        try:
            parse_resource(document)
        except InvalidManifest as error:
            self.refused = f"{error.reason}: {error}"
        else:
            self.world.put(document)

    def model(self, *, source: dict[str, Any] | None = None, name: str = "m", **spec: Any) -> None:
        """An SLMModel of the lab's repository."""
        self.put("SLMModel", name, {"source": {"huggingFace": {"repo": REPO}} if source is None else source, **spec})

    def hub_model(self, **fields: Any) -> None:
        """The same with other members of ``source.huggingFace``."""
        self.model(source={"huggingFace": {"repo": REPO, **fields}})

    def job(self, *variants: str, name: str = "q", model: str = "m", **spec: Any) -> None:
        """A QuantJob that is quick: four short chunks, no benchmark."""
        quick = {"evaluation": {"chunks": 4, "contextSize": 64}, "benchmark": {"enabled": False}}
        self.put("QuantJob", name, {"modelRef": {"name": model}, "variants": list(variants), **quick, **spec})

    def service(self, name: str = "s", **spec: Any) -> None:
        """An InferenceService."""
        self.put("InferenceService", name, spec)

    def prime(self, *variants: str) -> None:
        """Bring model and variants into the store, so that only what a case adds can differ."""
        self.model()
        self.job(*variants, name="primed")
        self.world.run()
        self.before = store_content(self.store)

    def edit(self, file: str, **changes: Any) -> None:
        """Change members of a JSON file of the repository."""
        path = self.repo / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def rewrite_header(self, change: Any) -> None:
        """Change the JSON header of the weights; the tensors' bytes stay."""
        path = self.repo / "model.safetensors"
        data = path.read_bytes()
        end = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.dumps(change(json.loads(data[8:end]))).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[end:])

    def ready(self, kind: str) -> tuple[str, str]:
        """Reason and message of the last object of a kind that is not primed."""
        if self.refused:
            reason, _, message = self.refused.partition(": ")
            return reason, message
        names = {"SLMModel": "m", "QuantJob": "q", "InferenceService": "s"}
        condition = self.world.condition(ObjectKey(kind, "default", names[kind]))
        assert condition["status"] == "False"
        return condition["reason"], condition["message"]


@contextmanager
def open_lab(folder: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab whose repository is a copy of ``template``."""
    shutil.copytree(template, folder / "hub" / REPO)
    with Hub(folder / "hub") as hub:
        yield Lab(folder, hub, monkeypatch)
