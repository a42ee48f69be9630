"""A world whose Jobs run the real pipeline steps, in this process and one at a time."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

from slm_contract import exitcodes
from slm_contract.results import Outcome
from slm_operator.core.manifests.metadata import LABEL_STEP
from slm_operator.core.placement import CPU, LLAMA_CPP, Placement, Program
from slm_operator.core.plan import Manifest
from slm_pipelines.__main__ import STEPS, run_step
from tests.support.planning import StepAnswer, World


def local_placement(store: Path, endpoint: str = "") -> Placement:
    """Children that use this store and may contact this loopback hub and its second host."""
    host = urlsplit(endpoint).hostname or ""
    return Placement(
        store=str(store),
        pipeline_command=("python", "-m", "slm_pipelines"),
        engines={(LLAMA_CPP, CPU): Program(("llama-server",))},
        machine_cpus=2,
        hub_endpoint=endpoint,
        allow_private_hosts=(host,) if host else (),
    )


@dataclass
class RealWorld(World):
    """Runs what a Job's environment asks for, exactly as the Job's process would."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)

    def answer(self, job: Manifest, pick: Callable[[str], StepAnswer]) -> StepAnswer:
        """The step's own outcome, unless ``pick`` has one for its label."""
        label = job["metadata"]["labels"][LABEL_STEP]
        chosen = pick(label)
        if chosen is not None:
            return chosen
        container = job["spec"]["template"]["spec"]["containers"][0]
        given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        spec = json.loads(given.pop("SLM_SPEC"))
        with patch.dict(os.environ, given):
            code, outcome = run_step(spec["step"], STEPS[spec["step"]].model_validate(spec))
        assert len(outcome.model_dump_json(by_alias=True, exclude_none=True)) <= 4096
        self.codes[label], self.outcomes[label] = code, outcome
        assert (code == exitcodes.OK) == (outcome.error is None)
        return outcome

    def run(self) -> None:
        """Until nothing changes any more."""
        self.settle(lambda _label: None)


def store_content(store: Path) -> dict[str, str]:
    """Every lasting file of a store with the digest of its bytes; scratch space and the lock do not count."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.relative_to(store).parts[0] not in {"tmp", "lock"}
    }
