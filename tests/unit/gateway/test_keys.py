"""API keys from Secrets: what is read, what is refused and with which words, and who is let through."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.directory import Service
from slm_operator.gateway.keys import ApiKey, InvalidKey, KeyTable, format_key, hash_key, looks_like_key, read_secret

KEY = format_key(bytes(range(32)))
HASH = sha256(KEY.encode()).hexdigest()


def secret(namespace: str = "team-a", **fields: str) -> dict[str, Any]:
    data = {name: b64encode(value.encode()).decode() for name, value in {"sha256": HASH, **fields}.items()}
    return {"metadata": {"namespace": namespace, "name": "ci"}, "data": data}


def test_a_key_is_recognized_and_the_hash_is_plain_sha256() -> None:
    assert KEY.startswith("slm_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
    assert hash_key(KEY) == HASH
    assert looks_like_key(KEY)
    assert not looks_like_key(KEY[:-1] + ("0" if KEY[-1] != "0" else "1"))
    assert not looks_like_key(KEY[:10])


@given(random=st.binary(min_size=32, max_size=32))
def test_every_key_has_the_form_that_scanners_look_for(random: bytes) -> None:
    assert looks_like_key(format_key(random))


def test_all_fields_are_read() -> None:
    key = read_secret(
        secret(
            models="qwen\nteam-a/llama:Q4_K_M, small-*",
            expires="2027-01-31T00:00:00Z",
            requestsPerMinute="60",
            tokensPerMinute="10000",
            maxInFlight="4",
        ),
        "slm-system",
    )
    models = ("team-a/qwen", "team-a/llama:Q4_K_M", "team-a/small-*")
    assert key == ApiKey("team-a/ci", "team-a", (HASH,), models, 1801353600.0, 60, 10000, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (secret(sha256="abc"), "must hold the SHA-256 of the key, 64 hexadecimal digits"),
        (secret(sha256=""), "must hold the SHA-256 of the key"),
        (secret(sha256=HASH.upper()), "in lower case, in 'sha256'"),
        (secret(sha256=KEY), "must hold the SHA-256 of the key"),
        (secret(key=KEY), "has the field 'key': those of an API key are"),
        (secret(requestPerMinute="6"), "has the field 'requestPerMinute'"),
        (secret(requestsPerMinute="-1"), "'requestsPerMinute' must be a whole number, not '-1'"),
        (secret(tokensPerMinute="1e6"), "'tokensPerMinute' must be a whole number, not '1e6'"),
        (secret(maxInFlight=""), "'maxInFlight' must be a whole number"),
        (secret(expires="soon"), "'expires' must be a time like 2027-01-31T00:00:00Z, not 'soon'"),
        (secret(expires="2027-01-31T00:00:00"), "'expires' must name its time zone"),
        (secret(models="team-b/qwen"), "names 'team-b/qwen' in 'models': only Secrets in slm-system"),
        (secret(models="*/*"), "names '*/*' in 'models'"),
        ({"metadata": {"namespace": "team-a", "name": "ci"}}, "has no 'data' of base64-encoded text"),
        ({"metadata": {"namespace": "team-a", "name": "ci"}, "data": {"sha256": "?"}}, "has no 'data'"),
    ],
)
def test_a_secret_that_is_not_right_names_what_to_change(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        read_secret(given, "slm-system")
    assert message in str(refused.value)
    assert str(refused.value).startswith("Secret team-a/ci")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("models", "allowed"),
    [
        ("qwen", True),
        ("team-a/qwen", True),
        ("qwen:Q4_K_M", True),
        ("q*", True),
        ("*", True),
        ("", False),
        ("qwe", False),
        ("qwen2", False),
        ("qwen:Q8_0", False),
        ("*wen", False),
    ],
)
def test_a_key_is_good_for_the_services_it_names(models: str, allowed: bool) -> None:  # noqa: FBT001
    service = Service("team-a", "qwen", aliases=("qwen:Q4_K_M",))
    assert read_secret(secret(models=models), "slm-system").allows(service) is allowed


def test_stars_stay_within_the_namespace_unless_the_gateways_own_says_otherwise() -> None:
    other = Service("team-ab", "qwen")
    assert not read_secret(secret(models="*"), "slm-system").allows(other)
    assert read_secret(secret("slm-system", models="*/*"), "slm-system").allows(other)
    assert read_secret(secret("slm-system", models="team-ab/*"), "slm-system").allows(other)


def test_only_the_key_itself_is_found() -> None:
    old = format_key(b"o" * 32)
    key = ApiKey("team-a/ci", "team-a", (hash_key(old), HASH), ("team-a/*",))
    table = KeyTable([key])
    assert (table.find(KEY), table.find(old)) == (key, key)
    for wrong in (HASH, KEY[:-1], KEY + " ", KEY.upper(), "", "slm_", "\ud800", hash_key(HASH)):
        assert table.find(wrong) is None


def test_of_two_secrets_with_one_hash_the_first_counts() -> None:
    keys = [ApiKey(f"{name}/k", name, (HASH,), ("x/*",)) for name in ("b", "a")]
    found = KeyTable(keys).find(KEY)
    assert found is not None
    assert found.name == "a/k"


def test_a_key_for_a_service_opens_its_adapters() -> None:
    offers = Service("team-a", "chat", adapters=("french", "legal")).offers()
    assert [read_secret(secret(models="chat"), "slm-system").allows(each) for each in offers] == [True] * 3
    assert [read_secret(secret(models="other"), "slm-system").allows(each) for each in offers] == [False] * 3
