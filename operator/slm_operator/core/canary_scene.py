"""What a canary is planned from, and what the plan says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from slm_contract.reasons import Reason
from slm_operator.api.inferenceservice import CanaryStatus, InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.core.answers import Answers
from slm_operator.core.conditions import Verdict
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.plan import EventRecord, Manifest, ObjectKey

ANSWERING = (Reason.READY, Reason.ROLLING_OUT)
"""What is said of engines of which some answer and none is known to be broken."""


@dataclass(frozen=True)
class CanaryView:
    """What there is of a canary."""

    deployment: Manifest | None = None
    pods: tuple[Manifest, ...] = ()
    answers: Answers | None = None
    """Of the step that the status tells of, as far as gateways have reported."""


@dataclass(frozen=True)
class CanaryScene:
    """Everything that is looked at."""

    service: InferenceService
    quant_job: QuantJob | None
    wanted: Manifest
    """The service's Deployment as the spec wants it."""
    deployment: Manifest | None
    """As it is; None where there is none of ours."""
    address: Manifest | None
    pods: Sequence[Manifest]
    url: str
    """The service's address; empty while it is not known."""
    view: CanaryView
    now: datetime

    @property
    def canary(self) -> Manifest | None:
        """The canary's Deployment, if it is ours."""
        found = self.view.deployment
        return found if found is not None and is_controlled_by(found, self.service) else None


def pause(status: CanaryStatus | None) -> CanaryStatus | None:
    """Of a service that cannot be planned: nobody judges what is tried, so that it gets no requests."""
    if status is None or status.state != "Running":
        return status
    return status.model_copy(update={"percent": 0})


@dataclass(frozen=True)
class Rollout:
    """What becomes of the engines."""

    deployments: list[Manifest] = field(default_factory=list)
    """To be applied, the service's own first."""
    delete: tuple[ObjectKey, ...] = ()
    status: CanaryStatus | None = None
    verdict: Verdict | None = None
    """What is said in place of that the engines answer."""
    events: tuple[EventRecord, ...] = ()
    look_again_seconds: float | None = None

    def tell(self, verdict: Verdict) -> Verdict:
        """What the service says, of whose stable engines ``verdict`` tells."""
        return self.verdict if self.verdict is not None and verdict.reason in ANSWERING else verdict
