"""Where a step may connect to, and that it tries every address of a name."""

import socket
from pathlib import Path
from typing import Any

import pytest

from slm_contract.reasons import Reason
from slm_pipelines.egress import choose_addresses, is_public
from slm_pipelines.errors import Retryable
from tests.support.fetching import hub, run_resolve, source
from tests.support.hub import Hub

__all__ = ["hub"]

PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = {
    "10.1.2.3": "private",
    "100.64.0.1": "carrier-grade NAT",
    "0.0.0.0": "this host",
    "169.254.169.254": "link-local",
    "224.0.0.1": "multicast",
    "239.1.1.1": "multicast of an organisation",
    "::": "this host",
    "::1": "loopback",
    "::ffff:10.0.0.1": "a private IPv4 address, mapped",
    "::7f00:1": "loopback, IPv4-compatible",
    "64:ff9b::a9fe:a9fe": "a metadata service behind NAT64",
    "64:ff9b::7f00:1": "loopback behind NAT64",
    "64:ff9b:1::a00:1": "a local NAT64",
    "2002:7f00:1::1": "loopback by 6to4",
    "2002:a00:1::1": "a private IPv4 address by 6to4",
    "2001:0:7f00:1::": "Teredo",
    "fc00::1": "unique local",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "ff0e::1": "multicast of the whole internet",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_leads_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


def answer(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """Let a name have these addresses."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != name:
            return real(host, port, *args, **options)
        kinds = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses]
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port)) for kind, address in kinds]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "hub.example", "8.8.8.8", "64:ff9b::a9fe:a9fe")
    with pytest.raises(Retryable) as failure:
        choose_addresses("hub.example", 443, [])
    assert failure.value.reason is Reason.HOST_NOT_ALLOWED
    assert failure.value.message.startswith("hub.example:443 is at 64:ff9b::a9fe:a9fe, inside a private network")


def test_a_name_that_no_resolver_can_encode_is_a_sentence() -> None:
    with pytest.raises(Retryable) as failure:
        choose_addresses("a" * 300, 443, [])
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert "cannot be resolved" in failure.value.message


def test_a_hub_that_listens_on_the_second_address_of_its_name_is_reached(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "localhost", "::1", "127.0.0.1")
    there = source(hub, endpoint=hub.endpoint.replace("127.0.0.1", "localhost"))
    found = run_resolve(hub, source=there, allowPrivateHosts=["localhost", hub.cdn])
    assert found.revision == hub.commit("lab/tiny")


def test_a_hub_that_listens_on_no_address_of_its_name_is_unavailable(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del tmp_path
    answer(monkeypatch, "localhost", "127.0.0.2", "127.0.0.3")
    there = source(hub, endpoint=hub.endpoint.replace("127.0.0.1", "localhost"))
    with pytest.raises(Retryable) as failure:
        run_resolve(hub, source=there, allowPrivateHosts=["localhost"])
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert "cannot be reached" in failure.value.message
