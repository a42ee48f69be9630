"""Small parts of the cluster adapter: labels of metrics, progress from logs, sentences of probes."""

import ssl

import pytest

from slm_operator.adapters.kube_progress import is_running_step, read_progress
from slm_operator.adapters.metrics import Metrics, resource_of
from slm_operator.handlers.watching import Connection
from slm_operator.ports import ObjectKey


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/api/v1/namespaces/team/events", "events"),
        ("/api/v1/namespaces/team/pods/some-pod/log", "pods/log"),
        ("/apis/slm.dev/v1alpha1/namespaces/team/quantjobs/q/status", "quantjobs/status"),
        ("/apis/batch/v1/jobs", "jobs"),
        ("/apis/slm.dev/v1alpha1", "other"),
    ],
)
def test_requests_are_counted_by_resource_and_never_by_name(path: str, label: str) -> None:
    assert resource_of(path) == label


def test_progress_is_the_last_line_that_is_one() -> None:
    log = '{"step":"acquire","message":"fetching","done":1,"total":4,"unit":"bytes"}\nwarning: of a library\n'
    told = read_progress(log)
    assert told is not None
    assert (told["message"], told["done"], told["total"]) == ("fetching", 1, 4)
    assert read_progress("no line is progress\n") is None
    assert read_progress("") is None


@pytest.mark.parametrize(
    ("step", "phase", "expected"),
    [
        ("acquire", "Running", True),
        ("acquire", "Pending", False),
        ("serve", "Running", False),
        (None, "Running", False),
    ],
)
def test_only_steps_at_work_have_their_log_read(step: str | None, phase: str, *, expected: bool) -> None:
    labels = {"slm.dev/step": step} if step else {}
    assert is_running_step({"metadata": {"labels": labels}, "status": {"phase": phase}}) is expected


def test_objects_are_counted_by_their_last_verdict_until_they_go() -> None:
    metrics = Metrics()
    key = ObjectKey("SLMModel", "n", "m")
    metrics.judged(key, "False", "Resolving")
    metrics.judged(key, "True", "Ready")
    shown = metrics.render().decode()
    assert 'slm_operator_objects{kind="SLMModel",ready="True",reason="Ready"} 1.0' in shown
    assert 'slm_operator_objects{kind="SLMModel",ready="False",reason="Resolving"} 0.0' in shown
    metrics.judged(ObjectKey("SLMModel", "n", "other"), "True", "Ready")
    metrics.led(leads=False)  # Whoever acts now counts them.
    assert 'slm_operator_objects{kind="SLMModel",ready="True",reason="Ready"} 0.0' in metrics.render().decode()
    metrics.judged(key, "True", "Ready")
    metrics.gone(key)
    assert 'slm_operator_objects{kind="SLMModel",ready="True",reason="Ready"} 0.0' in metrics.render().decode()


def test_certificates_are_checked_as_kubernetes_own_clients_check_them() -> None:
    context = Connection(server="https://10.0.0.1").as_ssl_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
