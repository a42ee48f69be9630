"""Objects in every state that the planners produce, for those who judge them from outside: Argo CD, Flux."""

import copy
from collections.abc import Callable

from slm_operator.core.plan import Manifest, ObjectKey
from tests.support.planning import MODEL, QUANT, SERVICE, World, fail, manifest, succeed

MODEL_KEY = ObjectKey("SLMModel", "default", "m")
QUANT_KEY = ObjectKey("QuantJob", "default", "q")
SERVICE_KEY = ObjectKey("InferenceService", "default", "s")


def _settled(*manifests: Manifest) -> World:
    world = World()
    for each in manifests:
        world.put(each)
    world.settle(succeed)
    return world


def _changed(base: Manifest, **spec: object) -> Manifest:
    return manifest(base["kind"], base["metadata"]["name"], {**base["spec"], **spec})


def _model_progressing() -> Manifest:
    world = World()
    world.put(MODEL)
    world.settle(lambda label: succeed(label) if label == "resolve" else None)
    return world.objects[MODEL_KEY]


def _model_stalled() -> Manifest:
    world = World()
    world.put(MODEL)
    world.settle(lambda _label: fail("UnsafeFormat", "only pickles"))
    return world.objects[MODEL_KEY]


def _quant_stalled() -> Manifest:
    gate = {"maxKLDivergence": 0.001, "minTopOneAgreement": 0.99, "maxPerplexityIncrease": 0.1}
    return _settled(MODEL, _changed(QUANT, gate=gate)).objects[QUANT_KEY]


def _answering() -> World:
    """A world whose service has one engine that answers."""
    world = _settled(MODEL, QUANT, SERVICE)
    counts = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    world.objects[ObjectKey("Deployment", "default", "s")]["status"] = counts
    world.report_address({"loadBalancer": {"ingress": [{"ip": "127.0.0.1", "ports": [{"port": 4321}]}]}})
    world.settle(succeed)
    return world


def _service_stalled() -> Manifest:
    world = _settled(MODEL, QUANT, SERVICE)
    world.report_engine({"restartCount": 3, "lastState": {"terminated": {"exitCode": 1, "message": "no such device"}}})
    world.settle(succeed)
    return world.objects[SERVICE_KEY]


def _outdated() -> Manifest:
    """Ready for an earlier spec: the operator has not looked at the new one."""
    world = _answering()
    world.put(_changed(SERVICE, parallel=3))
    return world.objects[SERVICE_KEY]


STATES: dict[str, Callable[[], Manifest]] = {
    "model new": lambda: {**copy.deepcopy(MODEL), "metadata": {"name": "m", "namespace": "default", "generation": 1}},
    "model progressing": _model_progressing,
    "model stalled": _model_stalled,
    "model ready": lambda: _settled(MODEL).objects[MODEL_KEY],
    "model suspended": lambda: _settled(_changed(MODEL, suspend=True)).objects[MODEL_KEY],
    "job waiting": lambda: _settled(QUANT).objects[QUANT_KEY],
    "job stalled": _quant_stalled,
    "job ready": lambda: _settled(MODEL, QUANT).objects[QUANT_KEY],
    "job suspended": lambda: _settled(MODEL, _changed(QUANT, suspend=True)).objects[QUANT_KEY],
    "service starting": lambda: _settled(MODEL, QUANT, SERVICE).objects[SERVICE_KEY],
    "service stalled": _service_stalled,
    "service ready": lambda: _answering().objects[SERVICE_KEY],
    "service stopped": lambda: _settled(MODEL, QUANT, _changed(SERVICE, replicas=0)).objects[SERVICE_KEY],
    "service outdated": _outdated,
}
"""Name of a state to the object in it, with the status that the planners wrote."""
