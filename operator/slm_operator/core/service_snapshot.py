"""What plan_inferenceservice looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slm_operator.api.inferenceservice import InferenceService
from slm_operator.api.quantjob import QuantJob
from slm_operator.api.slmmodel import SLMModel
from slm_operator.core.accelerators import Published
from slm_operator.core.canary_scene import CanaryView
from slm_operator.core.placement import Placement
from slm_operator.core.plan import Manifest
from slm_operator.core.scaling import Scaling
from slm_operator.core.steps import Children
from slm_operator.core.store import StoreView


@dataclass(frozen=True)
class ServiceSnapshot:
    """Everything the planner looks at."""

    service: InferenceService
    model: SLMModel | None
    """What ``modelRef`` names, or the model of the QuantJob."""
    quant_job: QuantJob | None
    children: Children
    """Jobs of the service itself (it converts when it serves an unquantized model)."""
    deployment: Manifest | None
    address: Manifest | None
    """The Service object."""
    pods: tuple[Manifest, ...]
    """Engine pods."""
    placement: Placement
    companions: Mapping[str, SLMModel] = field(default_factory=dict)
    """By name, further SLMModels that the service names and that are there."""
    store: StoreView | None = None
    """The namespace's store on a cluster."""
    budget: Manifest | None = None
    """The PodDisruptionBudget."""
    scaling: Scaling | None = None
    """Where demand decides how many engines there are."""
    canary: CanaryView = field(default_factory=CanaryView)
    """Engines of a change that is being tried."""
    claim_templates: tuple[Manifest, ...] = ()
    """ResourceClaimTemplates."""
    published: Published = field(default_factory=Published)
    """What nodes offer, where an engine is to be chosen or the scheduler finds none for it, and that may be read."""

    @property
    def replicas(self) -> int:
        """Engines that are wanted."""
        return self.service.spec.replicas if self.scaling is None else self.scaling.replicas
