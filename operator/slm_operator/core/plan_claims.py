"""plan_claims: the ResourceClaimTemplates of a service, each as long as pods are made from it."""

from slm_operator.core.engines import is_settled
from slm_operator.core.manifests.metadata import is_controlled_by
from slm_operator.core.manifests.resource_claim import build_claim_template, read_claim_template
from slm_operator.core.plan import Plan, key_of
from slm_operator.core.service_snapshot import ServiceSnapshot
from slm_operator.core.serving import Wanted


def plan_claims(snapshot: ServiceSnapshot, wanted: Wanted) -> Plan:
    """What to create before the Deployments that are wanted, and what no Deployment needs any more.

    While engines are replaced, those from before may still lose a pod and make another, with the template they had.
    """
    service, accelerator = snapshot.service, wanted.choice.accelerator if wanted.choice else None
    there = [each for each in (snapshot.deployment, snapshot.canary.deployment) if each is not None]
    used = {read_claim_template(each) for each in wanted.children if each["kind"] == "Deployment"}
    made = [build_claim_template(service, accelerator)] if accelerator and accelerator.device_class else []
    # A canary that was given up leaves engines as they are, with what is not wanted any more.
    create = tuple(each for each in made if each["metadata"]["name"] in used)
    if not all(map(is_settled, there)):
        return Plan(create=create)
    used |= set(map(read_claim_template, there))
    own = (each for each in snapshot.claim_templates if is_controlled_by(each, service))
    return Plan(create=create, delete=tuple(key_of(each) for each in own if each["metadata"]["name"] not in used))
