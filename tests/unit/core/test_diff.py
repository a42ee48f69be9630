"""What is a difference, what only looks like one, and how it is told."""

from typing import Any

import pytest

from slm_operator.core.diff import first_difference, is_applied


def difference(wanted: Any, found: Any) -> str | None:
    found_difference = first_difference(wanted, found)
    return None if found_difference is None else str(found_difference)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"limits": {"cpu": "1000m", "memory": "1024Mi"}}, {"limits": {"cpu": "1", "memory": "1Gi"}}),
        ({"requests": {"storage": "10240Mi"}}, {"requests": {"storage": "10Gi"}}),
        ({"emptyDir": {"sizeLimit": "1024Mi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        ({"a": 1, "nodeSelector": {}, "tolerations": [], "name": ""}, {"a": 1}),
        ({"env": [{"name": "A", "value": "1"}, {"name": "B"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1"}]}),
        ({"env": [{"name": "A"}]}, {"env": [{"name": "INJECTED"}, {"name": "A"}]}),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 80, "protocol": "TCP"}], "clusterIP": "10.0.0.1"}),
    ],
)
def test_what_means_the_same_is_no_difference(wanted: Any, found: Any) -> None:
    assert difference(wanted, found) is None


@pytest.mark.parametrize(
    ("wanted", "found", "told"),
    [
        ({"limits": {"cpu": "2"}}, {"limits": {"cpu": "1"}}, "limits.cpu changes from 1 to 2"),
        ({"value": "1000m"}, {"value": "1"}, "value changes from 1 to 1000m"),
        ({"nodeSelector": {}}, {"nodeSelector": {"disk": "fast"}}, "nodeSelector.disk changes from fast to nothing"),
        (
            {"tolerations": []},
            {"tolerations": [{"key": "gpu"}]},
            "tolerations[0] changes from a mapping of 1 to nothing",
        ),
        ({"flag": False}, {}, "flag changes from nothing to False"),
        (
            {"containers": [{"name": "engine", "image": "e:2"}]},
            {"containers": [{"name": "sidecar"}, {"name": "engine", "image": "e:1"}]},
            "containers[engine].image changes from e:1 to e:2",
        ),
        (
            {"command": ["llama-server", "--ctx-size", "2048"]},
            {"command": ["llama-server", "--ctx-size", "4096"]},
            "--ctx-size changes from 4096 to 2048",
        ),
        ({"command": ["a", "b"]}, {"command": ["a"]}, "command[1] changes from nothing to b"),
        ({"command": ["a"]}, {"command": ["a", "b"]}, "command[1] changes from b to nothing"),
        ({"path": "/store/" + "a" * 64}, {"path": "b"}, f"path changes from b to …{'a' * 40}"),
    ],
)
def test_the_first_difference_is_told_in_words(wanted: Any, found: Any, told: str) -> None:
    assert difference(wanted, found) == told


def test_an_absent_object_is_not_applied_and_labels_count() -> None:
    wanted = {"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"c": 1}}
    assert not is_applied(wanted, None)
    assert not is_applied(wanted, {"metadata": {"name": "x"}, "spec": {"c": 1}})
    assert is_applied(wanted, {"metadata": {"name": "x", "labels": {"a": "b", "z": "z"}}, "spec": {"c": 1, "d": 2}})
