"""What of the chart is generated: CRD templates, schema and README, from values.yaml's comments."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from dev import chart, generate
from slm_operator.settings import GatewaySettings, OperatorSettings

VALUES = """\
# Values of something.

## First

# How many.
# @schema {minimum: 1}
count: 2

image:
  # Name of it,
  # on two lines.
  name: a|b
## Second

# Chosen by the user.
# @schema {additionalProperties: {type: string}}
labels:
  a: "1"
"""


def test_comments_become_tables_by_section() -> None:
    assert chart.render_tables(chart.read_values(VALUES)).splitlines() == [
        "### First",
        "",
        "| value | default | effect |",
        "|---|---|---|",
        "| `count` | `2` | How many. |",
        '| `image.name` | `"a\\|b"` | Name of it, on two lines. |',
        "",
        "### Second",
        "",
        "| value | default | effect |",
        "|---|---|---|",
        '| `labels` | `{"a": "1"}` | Chosen by the user. |',
        "",
    ]


def test_defaults_and_comments_become_a_schema_that_refuses_unknown_keys() -> None:
    schema = chart.build_schema(chart.read_values(VALUES))
    assert schema["additionalProperties"] is False
    assert schema["properties"]["count"] == {"description": "How many.", "type": "integer", "minimum": 1}
    assert schema["properties"]["image"] == {
        "type": "object",
        "additionalProperties": False,
        "properties": {"name": {"description": "Name of it, on two lines.", "type": "string"}},
    }
    assert schema["properties"]["labels"]["additionalProperties"] == {"type": "string"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "values.yaml: a has no comment"),
        ("# Two lines above.\n\na: 1\n", "values.yaml: a has no comment"),
        ("b:\n  # Said.\n  c: 1\n  d: 2\n", "values.yaml: b.d has no comment"),
        ("# Null has no type.\na:\n", "values.yaml: a must have a default that shows its type, not null"),
        ("- a\n", "values.yaml must be a map"),
    ],
)
def test_a_value_that_says_nothing_about_itself_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        chart.build_schema(chart.read_values(text))


def test_a_crd_becomes_a_template_of_the_same_text() -> None:
    crd = "# note\nkind: CustomResourceDefinition\nmetadata:\n  name: x\nspec:\n  d: '{{ .Values.x }} and }}'\n"
    head, body = chart.render_crd_template(crd).split("  {{- end }}\n")
    assert "  name: x\n" in head
    assert body == "spec:\n  d: '{{ \"{{\" }} .Values.x }} and }}'\n{{- end }}\n"


@pytest.mark.parametrize(
    "name", [*chart.FILES, f"{chart.CRD_FOLDER}/quantjobs.yaml", f"{chart.PLAIN_CRD_FOLDER}/slmmodels.yaml"]
)
def test_a_changed_file_is_found_by_check(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    generate.main([], tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("e", "3", 1))
    capsys.readouterr()
    assert generate.main(["--check"], tmp_path) == 1
    assert f"--- {name}" in capsys.readouterr().out


def test_an_unknown_crd_in_the_charts_folder_is_found_and_removed(tmp_path: Path) -> None:
    generate.main([], tmp_path)
    stale = tmp_path / chart.CRD_FOLDER / "old.yaml"
    stale.write_text("kind: CustomResourceDefinition\n")
    assert generate.main(["--check"], tmp_path) == 1
    generate.main([], tmp_path)
    assert not stale.exists()


@pytest.mark.parametrize(
    ("template", "settings", "left"),
    [
        ("_environment.tpl", OperatorSettings, set()),
        # Where the kubelet writes the token is where the gateway looks for it.
        ("gateway/_environment.tpl", GatewaySettings, {"SLM_DEMAND_TOKEN"}),
    ],
)
def test_the_chart_sets_every_setting_and_no_other(
    template: str, settings: type[OperatorSettings] | type[GatewaySettings], left: set[str]
) -> None:
    text = (chart.CHART / "templates" / template).read_text()
    wanted = {f"SLM_{name.upper()}" for name in settings.model_fields}
    assert set(re.findall(r"\bSLM_\w+", text)) == wanted - left


def test_the_version_of_the_chart_is_the_projects() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    project = tomllib.loads((chart.ROOT / "pyproject.toml").read_text())["project"]
    assert described["appVersion"] == described["version"] == project["version"]
