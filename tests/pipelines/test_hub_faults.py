"""What a hub, a content network or a folder can do wrong while bytes are fetched."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from slm_contract.reasons import Reason
from slm_contract.results import ResolveResult
from slm_contract.specs import AcquireSpec, ModelFile, ResolveSpec
from slm_pipelines.download import BREAKS_WITHOUT_PROGRESS, Downloader, Partial
from slm_pipelines.errors import BadInput, Broken, Retryable
from slm_pipelines.progress import Reporter
from slm_pipelines.steps import acquire, resolve
from tests.support.fetching import acquire_spec, hub, run_acquire, run_resolve, source
from tests.support.hub import Fault, Hub

__all__ = ["hub"]

SHARD = "model-00001-of-00002.safetensors"
FROM_CDN = "cdn:/lab/tiny/" + SHARD
PAGE = {"Content-Type": "text/html"}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr("slm_pipelines.hub.sleep", slept.append)
    return slept


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("later", ["3600", "Wed, 25 Nov 2099 22:50:00 GMT"])
def test_a_download_that_is_told_to_come_back_later_ends_at_once(hub: Hub, tmp_path: Path, later: str) -> None:
    found = run_resolve(hub)
    hub.requests.clear()
    hub.faults = [Fault(FROM_CDN, 999, 429, {"Retry-After": later})]
    with pytest.raises(Retryable) as failure:
        acquire.run(acquire_spec(hub, tmp_path / "store", found), Reporter("acquire"))
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert "answers 429 (Too Many Requests) again and again" in failure.value.message
    assert len(hub.fetched(SHARD)) == 1


def test_a_date_to_come_back_at_is_waited_for(hub: Hub, waits: list[float]) -> None:
    hub.faults = [Fault("revision/main", 1, 503, {"Retry-After": in_seconds(40)})]
    run_resolve(hub)
    assert len(waits) == 1
    assert 30 < waits[0] <= 40


@pytest.mark.parametrize("given", ["soon", "Wed, 99 Nov 2099 22:50:00 GMT", "nan"])
def test_a_time_to_come_back_that_is_none_leaves_the_usual_pause(hub: Hub, waits: list[float], given: str) -> None:
    hub.faults = [Fault("revision/main", 1, 503, {"Retry-After": given})]
    run_resolve(hub)
    assert len(waits) == 1
    assert waits[0] <= 0.5


@pytest.mark.parametrize("status", [425, 501, 520, 522, 524, 599])
def test_every_passing_status_is_tried_again(hub: Hub, tmp_path: Path, status: int) -> None:
    found = run_resolve(hub)
    hub.faults = [Fault(FROM_CDN, 1, status)]
    acquire.run(acquire_spec(hub, tmp_path / "store", found), Reporter("acquire"))
    assert len(hub.fetched(SHARD)) == 1 + len({"resolve"}) + len({"the fault"})


@pytest.mark.parametrize("path", [FROM_CDN, "/config.json", "revision/main"])
def test_a_web_page_in_place_of_an_answer_is_tried_again(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.faults = [Fault(path, 1, 200, PAGE, body=b"<html>Maintenance</html>")]
    done = run_acquire(hub, tmp_path / "store")
    assert hub.faults[0].times == 0
    assert done.file_count == len(hub.files("lab/tiny")) - 1


def test_a_link_of_another_host_that_went_stale_does_not_blame_the_repository(hub: Hub, tmp_path: Path) -> None:
    found = run_resolve(hub)
    hub.faults = [Fault(FROM_CDN, 99, 403)]
    with pytest.raises(Retryable) as failure:
        acquire.run(acquire_spec(hub, tmp_path / "store", found), Reporter("acquire"))
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert failure.value.message == f"127.0.0.1 answers 403 for {SHARD}, where {hub.endpoint} sent us."


@pytest.mark.parametrize("endpoint", ["http://[bad", "http://a\u0001b", "ftp://hub"])
def test_a_hub_address_that_is_none_is_refused(hub: Hub, endpoint: str) -> None:
    with pytest.raises(BadInput) as failure:
        run_resolve(hub, source=source(hub, endpoint=endpoint))
    assert failure.value.reason is Reason.INVALID_SPEC
    assert "is no http or https address: correct endpoint or HF_ENDPOINT" in failure.value.message


def test_a_stream_that_keeps_ending_early_is_given_up(tmp_path: Path) -> None:
    asked = []

    def stream(name: str, begin: int, end: int) -> Iterator[bytes]:
        asked.append((name, begin, end))
        yield from [b"x"] if begin == 0 else []

    partial = Partial.open(ModelFile(name="w", size_bytes=10), tmp_path / "partial", lambda: None)
    with pytest.raises(Broken) as failure:
        Downloader(stream, lambda _: None).fetch([partial])
    partial.close(remove=True)
    assert failure.value.reason is Reason.SOURCE_UNAVAILABLE
    assert failure.value.message == "9 bytes of a range of w are missing."
    assert asked == [("w", 0, 10), *[("w", 1, 10)] * BREAKS_WITHOUT_PROGRESS]


def resolved_folder(hub: Hub, store: Path) -> tuple[ResolveResult, AcquireSpec]:
    folder = {"path": {"path": str(hub.root / "lab/tiny")}}
    found = resolve.run(ResolveSpec.model_validate({"source": folder}), Reporter("resolve"))
    return found, acquire_spec(hub, store, found, source=folder)


def test_a_file_that_shrank_after_it_was_resolved_is_refused(hub: Hub, tmp_path: Path) -> None:
    _, spec = resolved_folder(hub, tmp_path / "store")
    weights = hub.root / "lab/tiny" / SHARD
    weights.write_bytes(weights.read_bytes()[:-100_000])
    with pytest.raises(BadInput) as failure:
        acquire.run(spec, Reporter("acquire"))
    assert failure.value.reason is Reason.CHECKSUM_MISMATCH
    assert f"{SHARD} ends at byte {weights.stat().st_size} and was longer" in failure.value.message
    assert failure.value.message.endswith("leave the folder alone, and apply the model again.")


def test_a_file_that_went_away_after_it_was_resolved_is_refused(hub: Hub, tmp_path: Path) -> None:
    _, spec = resolved_folder(hub, tmp_path / "store")
    (hub.root / "lab/tiny" / SHARD).unlink()
    with pytest.raises(BadInput) as failure:
        acquire.run(spec, Reporter("acquire"))
    assert failure.value.reason is Reason.CHECKSUM_MISMATCH
    assert f"{SHARD} was there when it was resolved and is gone" in failure.value.message


def test_a_folder_may_hold_names_of_other_encodings(hub: Hub, tmp_path: Path) -> None:
    (hub.root / "lab/tiny" / b"caf\xe9.txt".decode(errors="surrogateescape")).write_bytes(b"x")
    found, _ = resolved_folder(hub, tmp_path / "store")
    assert found.architecture == "Qwen3ForCausalLM"
