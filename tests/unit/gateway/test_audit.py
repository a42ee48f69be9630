"""The audit's chain: what a line holds, and that nothing can be done to it unseen."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.gateway.audit import FIRST, Chain, hash_line, verify
from slm_operator.gateway.audit_file import AuditDamaged, AuditFile
from slm_operator.gateway.directory import Service
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal

SERVICE = Service("default", "qwen", digest="sha256:" + "d" * 64)


def record(number: int = 1) -> Record:
    made = Record(
        f"id-{number}", "/v1/chat/completions", 10.0, "default/ci", "qwen", SERVICE, "engine-0", SERVICE.digest
    )
    made.status, made.verdict, made.attempts = 200, "ok", 1
    made.admitted, made.first_byte, made.ended = 10.001, 10.25, 11.5
    made.prompt_tokens, made.completion_tokens = 5, 7
    return made


def chain(count: int) -> list[bytes]:
    made = Chain()
    return [made.append(record(number), 1_800_000_000.5) for number in range(count)]


def test_a_line_says_who_what_and_how_long_and_no_prompt() -> None:
    assert json.loads(chain(1)[0]) == {
        "number": 1,
        "previous": FIRST,
        "time": "2027-01-15T08:00:00.500+00:00",
        "requestId": "id-0",
        "caller": "default/ci",
        "route": "/v1/chat/completions",
        "model": "qwen",
        "service": "default/qwen",
        "digest": SERVICE.digest,
        "engine": "engine-0",
        "attempts": 1,
        "status": 200,
        "verdict": "ok",
        "promptTokens": 5,
        "completionTokens": 7,
        "estimated": False,
        "queueMs": 1.0,
        "firstByteMs": 250.0,
        "totalMs": 1500.0,
    }


def test_what_clients_write_stays_within_its_line() -> None:
    made = Record("id", "/v1/chat/completions", 0.0, model='x"\n{"number":9}\n' + "y" * 1000)
    line = Chain().append(made, 0.0)
    assert line.count(b"\n") == 1
    assert len(json.loads(line)["model"]) == 128


def test_a_whole_chain_is_verified_with_its_head() -> None:
    lines = chain(5)
    found = verify(lines)
    assert (found.lines, found.problem, found.last) == (5, "", hash_line(lines[-1].rstrip(b"\n")))
    assert verify([]).last == FIRST


@given(data=st.data())
def test_whatever_is_changed_taken_out_put_in_or_moved_is_found(data: st.DataObject) -> None:
    lines = chain(6)
    index = data.draw(st.integers(0, 4))
    kind = data.draw(st.sampled_from(["change", "remove", "insert", "swap"]))
    broken = list(lines)
    if kind == "change":
        place = data.draw(st.integers(0, len(lines[index]) - 2))
        byte = data.draw(st.integers(32, 126).filter(lambda each: each != lines[index][place]))
        broken[index] = lines[index][:place] + bytes([byte]) + lines[index][place + 1 :]
    elif kind == "remove":
        del broken[index]
    elif kind == "insert":
        broken.insert(index, lines[data.draw(st.integers(0, 5).filter(lambda each: each != index))])
    else:
        broken[index], broken[index + 1] = broken[index + 1], broken[index]
    found = verify(broken)
    assert found.problem.startswith(f"line {found.lines + 1} ")
    assert found.lines <= index + 1


def test_the_words_say_what_was_done() -> None:
    lines = chain(3)
    assert verify([lines[0], lines[2]]).problem == (
        "line 2 does not follow the one before: that one was changed, or a line was taken out or put in"
    )
    assert verify([lines[0], lines[1][:40]]).problem == "line 2 is no JSON: it was cut, or changed"


def test_a_file_goes_on_where_it_ended_also_after_a_crash_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        audit = AuditFile(path, lambda: 0.0)
        audit.observe(record(number))
        head = audit.head
        audit.close()
        with path.open("ab") as file:
            file.write(b'{"number": 9, "prev')
    assert verify(path.read_bytes().splitlines(keepends=True)).lines == 3
    AuditFile(path, lambda: 0.0).close()
    found = verify(path.read_bytes().splitlines(keepends=True))
    assert (found.lines, found.problem, found.last) == (3, "", head)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_changed_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(chain(3)).replace(b"id-1", b"id-7"))
    with pytest.raises(AuditDamaged, match="line 3 does not follow the one before"):
        AuditFile(path, lambda: 0.0)


def test_nothing_is_answered_while_the_audit_cannot_be_written_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, lambda: 0.0)
    audit.check()
    descriptor = audit._descriptor
    with Path("/dev/full").open("wb") as full:
        audit._descriptor = full.fileno()
        audit.observe(record(1))
        with pytest.raises(Refusal, match="cannot write its audit") as refused:
            audit.check()
        assert (refused.value.status, refused.value.code) == (503, "audit_unavailable")
        audit._descriptor = descriptor
    audit.check()
    audit.observe(record(2))
    audit.close()
    assert verify(path.read_bytes().splitlines(keepends=True)).lines == 2


def test_refused_requests_fill_no_memory_while_the_audit_cannot_be_written_and_answers_keep_their_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path, lambda: 0.0)
    descriptor = audit._descriptor
    with Path("/dev/full").open("wb") as full:
        audit._descriptor = full.fileno()
        for number in range(5):
            audit.observe(replace(record(number), attempts=1))
        most = len(audit._unwritten)
        for number in range(1000):
            audit.observe(replace(record(number), attempts=0, verdict="audit_unavailable"))
        assert len(audit._unwritten) == most
        audit._descriptor = descriptor
    audit.check()
    audit.observe(replace(record(1), attempts=0))
    audit.close()
    assert verify(path.read_bytes().splitlines(keepends=True)).lines == 6
    assert "1000 requests were refused meanwhile" in caplog.text


OUTPUT = """
import sys
from slm_operator.gateway.audit_file import AuditOutput
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal
audit = AuditOutput(lambda: 0.0)
for number in range(5000):
    audit.observe(Record(f"id-{number}", "unknown", 1.0, ended=1.0, attempts=1))
try:
    audit.check()
except Refusal as refusal:
    sys.stderr.write(refusal.code)
sys.stderr.flush()
sys.stdin.readline()
audit.check()
audit.close()
"""


def test_standard_output_that_nobody_reads_stops_answers_and_not_the_gateway(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command, told = [sys.executable, "-c", OUTPUT], tmp_path / "stderr"
    with (
        told.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while b"audit_unavailable" not in told.read_bytes():
                assert time.monotonic() < deadline, "it stands"
                time.sleep(0.05)
            written, _ = process.communicate(b"\n", timeout=60)
        finally:
            process.kill()
    assert told.read_bytes().count(b"cannot be written") == 1
    lines = written.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    assert len(whole) > 1000
    assert verify(whole).problem == ""
