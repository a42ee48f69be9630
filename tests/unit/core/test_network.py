"""What the network policies of a namespace let through."""

from slm_operator.api.meta import ObjectMeta
from slm_operator.core.manifests.deployment import address_name
from slm_operator.core.manifests.network import build_callers, build_policies
from slm_operator.core.placement import ClusterPods
from slm_operator.core.plan import Manifest
from slm_operator.core.store import ClaimOwner

OWNER = ClaimOwner(ObjectMeta(name="slm-store", namespace="n", uid="u"))


def egress(endpoints: list[str], private: list[str]) -> list[Manifest]:
    """The rules of steps that ask a hub, without the one for DNS."""
    source = next(item for item in build_policies(OWNER, endpoints, private) if item["metadata"]["name"].endswith("ce"))
    rules: list[Manifest] = source["spec"]["egress"]
    return rules[1:]


def ports(rule: Manifest) -> list[int]:
    return [item["port"] for item in rule["ports"]]


def cidrs(rule: Manifest) -> list[str]:
    return [item["ipBlock"]["cidr"] for item in rule["to"]]


def test_steps_that_make_and_measure_reach_nothing_and_nothing_reaches_them() -> None:
    offline = build_policies(OWNER, [], [])[0]["spec"]
    assert (offline["ingress"], offline["egress"], offline["policyTypes"]) == ([], [], ["Ingress", "Egress"])


def test_only_public_addresses_on_the_ports_of_the_hubs_are_reached() -> None:
    (rule,) = egress(["http://hub.example.com:8080/api", "https://other.example.com", "http://plain.example.com"], [])
    assert ports(rule) == [80, 443, 8080]
    assert cidrs(rule) == ["0.0.0.0/0", "::/0"]
    assert "10.0.0.0/8" in rule["to"][0]["ipBlock"]["except"]
    assert "169.254.0.0/16" in rule["to"][0]["ipBlock"]["except"]


def test_a_port_that_is_none_keeps_no_policy_from_being_written() -> None:
    (rule,) = egress(["https://h:99999", "https://other:8443"], [])
    assert ports(rule) == [443, 8443]


def test_an_allowed_private_address_is_one_address_and_its_port() -> None:
    _, rule = egress([], ["10.1.2.3:8443"])
    assert (cidrs(rule), ports(rule)) == (["10.1.2.3/32"], [8443])
    _, six, bare = egress([], ["[fd00::7]:8443", "fd00::8"])
    assert (cidrs(six), ports(six)) == (["fd00::7/128"], [8443])
    assert (cidrs(bare), ports(bare)) == (["fd00::8/128"], [443])


def test_an_allowed_host_name_opens_its_port_to_private_networks_only() -> None:
    _, rule = egress(["http://hub.lan:9000"], ["hub.lan:9000"])
    assert ports(rule) == [9000]
    assert cidrs(rule) == ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    _, unnamed = egress(["http://hub.lan:9000"], ["hub.lan"])
    assert ports(unnamed) == [443, 9000]


def test_the_same_settings_in_another_order_are_the_same_policies() -> None:
    one = build_policies(OWNER, ["http://a:1", "http://b:2"], ["x", "y"])
    assert one == build_policies(OWNER, ["http://b:2", "http://a:1"], ["y", "x", "x"])


def test_the_name_of_an_address_is_a_dns_label() -> None:
    names = {"chat": "chat", "qwen3-0.6b": "qwen3-0-6b", "7b": "s-7b", "a..b": "a--b"}
    assert {name: address_name(name) for name in names} == names
    assert len(address_name("7" * 52)) <= 63


def engine_callers(*callers: str, gateway_namespace: str = "slm-system") -> list[Manifest]:
    pods = ClusterPods(gateway_namespace=gateway_namespace, engine_callers=callers)
    engines = build_policies(OWNER, [], [], build_callers(pods))[-1]
    (rule,) = engines["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    found: list[Manifest] = rule.get("from", [])
    return found


def test_engines_let_in_gateways_and_chosen_namespaces_and_nobody_else() -> None:
    namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "slm-system"}}}
    gateway = {**namespace, "podSelector": {"matchLabels": {"slm.dev/gateway": "true"}}}
    assert engine_callers("gateway") == [gateway]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert engine_callers("monitoring", "gateway", "monitoring") == [gateway, monitoring]
    assert engine_callers("gateway", "*") == [], "everybody"
    (nobody,) = engine_callers("gateway", gateway_namespace="")
    assert nobody == {"podSelector": {"matchLabels": {"slm.dev/gateway": "none"}}}
