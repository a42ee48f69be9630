"""What the objects of a namespace still refer to in its store."""

import json
import re
from collections.abc import Iterable

from slm_operator.core.plan import Manifest

KEEPING_KINDS = ("SLMModel", "QuantJob", "InferenceService", "Job", "Deployment", "Pod")
DIGEST = re.compile(r"sha256[:/]([0-9a-f]{64})")
"""A digest, also as the path of a blob in an engine's command line."""


def find_roots(objects: Iterable[Manifest]) -> list[str]:
    """Every digest that any object mentions anywhere: keeping too much costs disk, too little costs work."""
    return sorted({f"sha256:{found}" for each in objects for found in DIGEST.findall(json.dumps(each))})


def has_ended(job: Manifest) -> bool:
    """Whether the Job will run no further pod."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
