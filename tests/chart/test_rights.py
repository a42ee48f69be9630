"""What the operator and its users may do, asked of a real API server's authorizer, both ways."""

import json
import subprocess
from collections.abc import Sequence
from itertools import takewhile

import pytest

from dev.cluster.cluster import Cluster
from dev.rendering import GOLDEN, NAMESPACE, RELEASE, ROOT, VERB_COLUMN
from tests.chart.installing import Right, Site, account, refusal

KINDS = ("slm.dev/slmmodels", "slm.dev/quantjobs", "slm.dev/inferenceservices")
CHILDREN = (
    "batch/jobs",
    "apps/deployments",
    "core/services",
    "networking.k8s.io/networkpolicies",
    "policy/poddisruptionbudgets",
)
TEMPLATES = "resource.k8s.io/resourceclaimtemplates"
RIGHTS = (
    *((verb, kind) for kind in KINDS for verb in ("get", "list", "watch", "patch")),
    *((verb, f"{kind}/status") for kind in KINDS for verb in ("get", "patch")),
    *(("update", f"{kind}/finalizers") for kind in KINDS),
    *((verb, child) for child in CHILDREN for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *((verb, "core/persistentvolumeclaims") for verb in ("get", "list", "watch", "create", "patch")),
    *((verb, "core/pods") for verb in ("get", "list", "watch")),
    ("get", "core/pods/log"),
    *((verb, "core/events") for verb in ("create", "patch")),
    *((verb, TEMPLATES) for verb in ("get", "list", "watch", "create", "delete")),
)
"""What the operator needs where it reconciles."""
NEVER = (
    *((verb, "core/secrets") for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    *((verb, "core/configmaps") for verb in ("get", "create")),
    *((verb, "core/pods") for verb in ("create", "update", "patch", "delete")),
    ("create", "core/pods/exec"),
    ("create", "core/pods/attach"),
    ("create", "core/pods/portforward"),
    ("create", "core/pods/eviction"),
    ("update", "core/pods/ephemeralcontainers"),
    *((verb, "core/persistentvolumeclaims") for verb in ("delete", "deletecollection", "update")),
    *((verb, child) for child in CHILDREN for verb in ("update", "deletecollection")),
    *((verb, TEMPLATES) for verb in ("update", "patch", "deletecollection")),
    *((verb, "resource.k8s.io/resourceclaims") for verb in ("get", "create", "update", "patch", "delete")),
    *((verb, kind) for kind in KINDS for verb in ("create", "update", "delete", "deletecollection")),
    *(("update", f"{kind}/status") for kind in KINDS),
    ("create", "core/serviceaccounts/token"),
    ("create", "authorization.k8s.io/subjectaccessreviews"),
    ("impersonate", "core/serviceaccounts"),
    *((verb, f"rbac.authorization.k8s.io/{name}") for name in ("roles", "rolebindings") for verb in ("create", "bind")),
    ("escalate", "rbac.authorization.k8s.io/roles"),
    ("create", "apps/daemonsets"),
    ("create", "apps/statefulsets"),
    ("*", "*/*"),
)
"""What it must not be able to do anywhere."""
REVIEW = ("create", "authentication.k8s.io/tokenreviews")
"""Of gateways that report demand."""
GATEWAY_RIGHTS = tuple((verb, kind) for kind in (*KINDS, "core/pods") for verb in ("get", "list", "watch"))
GATEWAY_NEVER = (
    *((verb, kind) for kind in KINDS for verb in ("create", "update", "patch", "delete", "use")),
    *((verb, f"{kind}/status") for kind in KINDS for verb in ("update", "patch")),
    *((verb, child) for child in CHILDREN for verb in ("get", "create", "patch", "delete")),
    *((verb, "core/secrets") for verb in ("get", "watch", "create", "update", "patch", "delete")),
    ("get", "core/pods/log"),
    ("create", "core/pods/exec"),
    ("create", "core/serviceaccounts/token"),
    ("impersonate", "core/serviceaccounts"),
    ("*", "*/*"),
)
NODES = tuple(
    (verb, kind)
    for kind in ("core/nodes", "resource.k8s.io/resourceslices", "resource.k8s.io/deviceclasses")
    for verb in ("get", "list", "watch")
)
"""What the operator looks at where it is everywhere, and else nobody of ours."""
NEVER_CLUSTER_WIDE = (
    *((verb, "core/namespaces") for verb in ("get", "list", "patch")),
    *((verb, "apiextensions.k8s.io/customresourcedefinitions") for verb in ("get", "create", "patch", "delete")),
    *(
        (verb, f"rbac.authorization.k8s.io/{name}")
        for name in ("clusterroles", "clusterrolebindings")
        for verb in ("create", "patch", "escalate", "bind")
    ),
    *((verb, "core/nodes") for verb in ("create", "update", "patch", "delete")),
    *(
        (verb, f"resource.k8s.io/{name}")
        for name in ("resourceslices", "deviceclasses")
        for verb in ("create", "update", "patch", "delete")
    ),
    ("get", "core/nodes/proxy"),
    *((verb, "core/namespaces") for verb in ("create", "update", "patch", "delete")),
    ("delete", "core/persistentvolumes"),
    *(
        (verb, f"admissionregistration.k8s.io/{name}")
        for name in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
        for verb in ("create", "patch")
    ),
    ("impersonate", "core/users"),
)
OPERATOR, GATEWAY = account(NAMESPACE), account(NAMESPACE, f"{RELEASE}-gateway")
ACCOUNT_GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")


def rights(pairs: Sequence[tuple[str, str]], namespace: str = "") -> list[Right]:
    return [Right(verb, resource, namespace) for verb, resource in pairs]


def assert_all(site: Site, questions: Sequence[Right], *, allowed: bool, who: str = OPERATOR) -> None:
    answers = site.allowed(who, questions, ACCOUNT_GROUPS)
    assert len(answers) == len(questions)
    assert [right for right, answer in zip(questions, answers, strict=True) if answer is not allowed] == []


@pytest.fixture(scope="module")
def everywhere(site: Site) -> Site:
    """Installed with default values."""
    site.install({})
    site.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    return site


@pytest.fixture(scope="module")
def in_two_namespaces(site: Site, everywhere: Site) -> Site:
    """The same release, changed to reconcile two namespaces: what it could do elsewhere is taken away."""
    for name in ("team-a", "team-b"):
        site.make_namespace(name)
    everywhere.upgrade({"watchNamespaces": ["team-a", "team-b"]})
    return everywhere


def test_everywhere_the_operator_may_do_what_it_needs(everywhere: Site) -> None:
    assert_all(everywhere, [*rights(RIGHTS, "default"), *rights(RIGHTS), *rights(NODES)], allowed=True)


def test_everywhere_the_operator_may_do_nothing_else(everywhere: Site) -> None:
    questions = [*rights(NEVER, "default"), *rights(NEVER, NAMESPACE), *rights(NEVER), *rights(NEVER_CLUSTER_WIDE)]
    assert_all(everywhere, questions, allowed=False)


def test_the_gateway_may_look_and_ask_who_calls_and_nothing_else(everywhere: Site) -> None:
    reviews = [Right("create", "authentication.k8s.io/tokenreviews")]
    reviews += [Right("create", "authorization.k8s.io/subjectaccessreviews")]
    keys = Right("list", "core/secrets", NAMESPACE)
    assert_all(everywhere, [*rights(GATEWAY_RIGHTS, "default"), *reviews, keys], allowed=True, who=GATEWAY)
    never = [*rights(GATEWAY_NEVER, NAMESPACE), *rights(GATEWAY_NEVER), *rights(NODES), *rights(NEVER_CLUSTER_WIDE)]
    never += lease(NAMESPACE)
    assert_all(everywhere, [*never, Right("list", "core/secrets", "default")], allowed=False, who=GATEWAY)


def lease(namespace: str, name: str = RELEASE) -> list[Right]:
    resource = "coordination.k8s.io/leases"
    return [Right(verb, resource, namespace, name) for verb in ("get", "update")]


def test_the_operator_holds_its_own_lease_and_no_other(everywhere: Site) -> None:
    resource = "coordination.k8s.io/leases"
    assert_all(everywhere, [*lease(NAMESPACE), Right("create", resource, NAMESPACE)], allowed=True)
    foreign = [*lease(NAMESPACE, "other"), *lease("kube-system"), *lease("default")]
    foreign += [Right("delete", resource, NAMESPACE, RELEASE), Right("list", resource, NAMESPACE)]
    assert_all(everywhere, [*foreign, Right("create", resource, "kube-node-lease")], allowed=False)


def golden_rights(case: str, role: str) -> set[tuple[str, str]]:
    """Verb and resource of a role in tests/golden/chart/rbac.txt."""
    section = (ROOT / GOLDEN / "rbac.txt").read_text().split(f"# {case}\n")[1].split("\n# ")[0]
    lines = section.split(f"{role}\n", 1)[1].splitlines()
    taken = list(takewhile(lambda line: line.startswith("  "), lines))
    return {(verb, line[:VERB_COLUMN].strip()) for line in taken for verb in line[VERB_COLUMN:].split()}


def served_rights(site: Site, namespace: str) -> set[tuple[str, str]]:
    """All rights of the operator in a namespace as the server lists them, but for what every account has."""

    def ask(user: str) -> set[tuple[str, str]]:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        # Without validation by kubectl, which would list CRDs as that user.
        arguments = ("create", f"--as={user}", "--validate=false", "-o", "json", "-f", "-")
        text = site.cluster.kubectl(*arguments, stdin=json.dumps(review))
        rules = json.loads(text)["status"]["resourceRules"]
        return {
            (verb, f"{group or 'core'}/{resource}")
            for rule in rules
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    return ask(OPERATOR) - ask(account(namespace, "default"))


def test_the_servers_list_of_rights_is_the_golden_file(everywhere: Site) -> None:
    golden = golden_rights("default", f"ClusterRole {RELEASE}") | golden_rights(
        "default", f"ClusterRole {RELEASE}-demand"
    )
    assert golden == {*RIGHTS, *NODES, REVIEW}
    assert served_rights(everywhere, "default") == golden


def test_a_refusal_is_what_the_operator_reads_when_it_asks_for_more(everywhere: Site) -> None:
    cluster, who = everywhere.cluster, f"--as={OPERATOR}"
    cluster.kubectl("create", "-n", "default", "secret", "generic", "token", "--from-literal=HF_TOKEN=x")
    said = refusal(lambda: cluster.kubectl("get", "secret", "token", "-n", "default", who))
    assert f'secrets "token" is forbidden: User "{OPERATOR}" cannot get resource "secrets"' in said
    cluster.kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(CLAIM))
    said = refusal(lambda: cluster.kubectl("delete", "pvc", "slm-store", "-n", "default", who))
    assert 'cannot delete resource "persistentvolumeclaims"' in said
    cluster.kubectl("get", "pvc,pods,jobs,deploy,slmmodels", "-A", who)
    assert cluster.kubectl("auth", "can-i", "list", "jobs.batch", "-A", who) == "yes\n"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        cluster.kubectl("auth", "can-i", "create", "pods", "-n", "default", who)
    assert refused.value.stdout == "no\n"


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "slm-store"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def test_the_operator_can_write_what_its_planners_make(everywhere: Site) -> None:
    cluster, who = everywhere.cluster, f"--as={OPERATOR}"
    apply = ("apply", "--server-side", "--field-manager=slm-operator", "-n", "default", "-f", "-", who)
    for _ in range(2):  # To apply again needs no other right.
        said = cluster.kubectl(*apply, stdin=json.dumps({**CLAIM, "metadata": {"name": "made"}}))
        assert said == "persistentvolumeclaim/made serverside-applied\n"


USER_TABLE = [
    ("view", [("get", KINDS[0]), ("list", KINDS[1]), ("watch", KINDS[2]), ("get", f"{KINDS[2]}/status")], True),
    ("view", [("create", KINDS[0]), ("patch", KINDS[2]), ("delete", KINDS[1]), ("patch", f"{KINDS[2]}/scale")], False),
    ("edit", [(verb, kind) for kind in KINDS for verb in ("get", "create", "update", "patch", "delete")], True),
    ("edit", [("patch", f"{KINDS[2]}/scale"), ("get", f"{KINDS[2]}/scale"), ("use", KINDS[2])], True),
    ("view", [("use", KINDS[2])], False),
    ("edit", [("patch", f"{KINDS[0]}/status"), ("update", f"{KINDS[1]}/finalizers")], False),
    ("admin", [("create", KINDS[0]), ("get", KINDS[1]), ("patch", f"{KINDS[2]}/scale")], True),
]


@pytest.mark.parametrize(("role", "pairs", "allowed"), USER_TABLE)
def test_who_may_use_a_namespace_may_use_the_kinds_there(
    everywhere: Site,
    role: str,
    pairs: list[tuple[str, str]],
    allowed: bool,  # noqa: FBT001
) -> None:
    user = f"{role}er@example.com"
    bind(everywhere.cluster, role, user)
    everywhere.wait_until(
        lambda: all(everywhere.allowed(user, [Right("get", KINDS[0], "default")])), "roles are merged"
    )
    assert everywhere.allowed(user, rights(pairs, "default")) == [allowed] * len(pairs)
    assert not any(everywhere.allowed(user, rights(pairs, "kube-system")))


def bind(cluster: Cluster, role: str, user: str) -> None:
    made = ("create", "rolebinding", role, f"--clusterrole={role}", f"--user={user}", "-n", "default")
    text = cluster.kubectl(*made, "--dry-run=client", "-o", "yaml")
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=text)


def test_in_two_namespaces_it_may_do_there_what_it_needs(in_two_namespaces: Site) -> None:
    assert_all(in_two_namespaces, [*rights(RIGHTS, "team-a"), *rights(RIGHTS, "team-b")], allowed=True)
    assert_all(in_two_namespaces, lease(NAMESPACE), allowed=True)
    golden = golden_rights("namespaced", f"Role {RELEASE} in team-a")
    assert served_rights(in_two_namespaces, "team-a") == golden | {REVIEW}


def test_in_two_namespaces_it_may_do_nothing_elsewhere(in_two_namespaces: Site) -> None:
    elsewhere = [right for place in ("kube-system", "default", NAMESPACE) for right in rights(RIGHTS, place)]
    assert_all(in_two_namespaces, [*elsewhere, *rights(RIGHTS)], allowed=False)
    never = [*rights(NEVER, "team-a"), *rights(NEVER), *rights(NODES), *rights(NEVER_CLUSTER_WIDE)]
    assert_all(in_two_namespaces, never, allowed=False)


def test_no_other_account_of_the_namespace_gets_any_of_it(everywhere: Site) -> None:
    questions = [*rights(RIGHTS, "default"), *rights(RIGHTS, NAMESPACE)]
    assert not any(everywhere.allowed(account(NAMESPACE, "default"), questions, ACCOUNT_GROUPS))
