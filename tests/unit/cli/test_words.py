from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_operator.api.slmmodel import SLMModel
from slm_operator.cli.chat import parse_stream
from slm_operator.cli.exits import CommandFailed
from slm_operator.cli.human import format_age, format_count, format_duration
from slm_operator.cli.jsonpath import evaluate
from slm_operator.cli.naming import build_model, derive_name, parse_model
from slm_operator.cli.waiting import parse_duration


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12"), (2_100_000, "2.1M"), (134_515_008, "134.5M"), (596_049_920, "0.6B"), (8_030_261_248, "8.0B")],
)
def test_parameters_read_as_people_say_them(number: int, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")])
def test_durations_have_one_unit(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


def test_an_age_needs_a_timestamp() -> None:
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert format_age("2026-01-01T00:00:00Z", now) == "60s"
    assert format_age("soon", now) == "<unknown>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".a.b", 1),
        (".a.absent.more", None),
        (".items[1].name", "two"),
        (".items[9]", None),
        ('.items[?(@.name=="one")].value', 1),
        ('.items[?(@.name=="nine")].value', None),
        (r".labels.slm\.dev/step", "serve"),
        (".a[0]", None),
    ],
)
def test_paths_of_printer_columns_are_followed(path: str, expected: object) -> None:
    value = {
        "a": {"b": 1},
        "items": [{"name": "one", "value": 1}, {"name": "two"}],
        "labels": {"slm.dev/step": "serve"},
    }
    assert evaluate(path, value) == expected


def test_a_path_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a path we understand"):
        evaluate(".a[*]", {})


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("Qwen/Qwen3-0.6B", {"huggingFace": {"repo": "Qwen/Qwen3-0.6B"}}, "qwen3-0.6b"),
        ("a/B_c.@main", {"huggingFace": {"repo": "a/B_c."}}, "b-c"),
        ("a/b@v1.0", {"huggingFace": {"repo": "a/b", "revision": "v1.0"}}, "b-v1.0"),
        (f"a/{'x' * 90}", {"huggingFace": {"repo": f"a/{'x' * 90}"}}, "x" * 40),
    ],
)
def test_a_repository_gives_source_and_name(text: str, source: object, name: str) -> None:
    request = parse_model(text)
    assert (request.source, request.names[0]) == (source, name)
    SLMModel.model_validate(build_model(name, "default", request.source))


def test_a_path_gives_an_absolute_source(tmp_path: Path) -> None:
    file = tmp_path / "My Model.Q8_0.gguf"
    file.touch()
    assert parse_model(str(file)).source == {"path": str(file)}
    assert parse_model(str(file)).names[0] == "my-model.q8-0"


@pytest.mark.parametrize("text", ["...", "-", "a..b", "x-.y", "Ünïcode", "." * 80, "é"])
def test_every_derived_name_is_valid(text: str) -> None:
    SLMModel.model_validate(build_model(derive_name(text), "default", {"path": "/m"}))


@pytest.mark.parametrize(
    ("text", "message"), [("nope", "MODEL is owner/name"), ("a/b/c", "MODEL is owner/name"), ("./no", "no file")]
)
def test_what_is_no_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message) as refused:
        parse_model(text)
    assert refused.value.code == 2


def test_durations_of_the_command_line() -> None:
    assert [parse_duration(text) for text in ("30", "30s", "1h30m", "0.5m")] == [30, 30, 5400, 30]
    with pytest.raises(CommandFailed, match="written as 30s, 5m or 1h30m, not 'soon'"):
        parse_duration("soon")


def test_a_stream_is_read_piece_by_piece() -> None:
    lines = [
        ": comment",
        'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}',
        'data: {"choices": [{"delta": {"content": "He"}}]}',
        "",
        'data: {"choices": [{"delta": {"content": "llo"}}]}',
        'data: {"choices": []}',
        "data: [DONE]",
        'data: {"choices": [{"delta": {"content": "late"}}]}',
    ]
    assert list(parse_stream(lines)) == ["He", "llo"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("data: {", "not JSON"), ('data: {"error": {"message": "out of memory"}}', "The engine failed: out of memory")],
)
def test_a_broken_stream_is_an_error(line: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        list(parse_stream([line]))
