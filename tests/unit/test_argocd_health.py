"""Argo CD's verdict about our objects: the Lua that we ship, run by Lua, over what the planners write."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime

from slm_operator.api.registry import INFOS
from tests.support.judging import STATES

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "argocd"
SCRIPT = (FOLDER / "health.lua").read_text()
UNSEEN = "The operator has not looked at this version yet."
EXPECTED = {
    "model new": ("Progressing", UNSEEN),
    "model progressing": ("Progressing", "acquire: starting"),
    "model stalled": ("Degraded", "only pickles"),
    "model ready": ("Healthy", "verified and stored."),
    "model suspended": ("Suspended", "Suspended before resolve: set spec.suspend to false to go on."),
    "job waiting": ("Progressing", "SLMModel m does not exist in this namespace; apply it"),
    "job stalled": ("Degraded", "No variant passed the gate: Q8_0: KL divergence 0.01 is above 0.001"),
    "job ready": ("Healthy", "Q4_0 is"),
    "job suspended": ("Suspended", "set spec.suspend to false to go on."),
    "service starting": ("Progressing", "Engines are starting: 0 of 1 answer."),
    "service stalled": ("Degraded", "The engine ended 3 times, last with exit code 1: no such device"),
    "service ready": ("Healthy", "1 of 1 engines answer at http://127.0.0.1:4321/v1."),
    "service stopped": ("Healthy", "Scaled to zero replicas"),
    "service outdated": ("Progressing", UNSEEN),
}


def judge(manifest: dict[str, Any]) -> tuple[str, str]:
    """Status and message, as Argo CD asks for them: ``obj`` is the object, and the script returns a table."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    # Argo CD opens hardly any library for scripts; this one needs none.
    lua.execute("for name in pairs(_G) do if not ({ipairs=1, pairs=1, _G=1})[name] then _G[name] = nil end end")
    lua.globals().obj = lua.table_from(manifest, recursive=True)
    health = lua.execute(SCRIPT)
    return health["status"], health["message"]


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_the_planners_has_its_health_and_sentence(state: str) -> None:
    status, message = judge(STATES[state]())
    wanted, words = EXPECTED[state]
    assert (status, words in message) == (wanted, True), message


def test_conditions_that_nobody_wrote_yet_are_progress() -> None:
    manifest = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}
    assert judge(manifest) == ("Progressing", "The operator has not said yet whether this is ready.")


def test_the_config_map_holds_the_script_for_each_kind() -> None:
    data = yaml.safe_load((FOLDER / "argocd-cm.yaml").read_text())["data"]
    assert data == {f"resource.customizations.health.slm.dev_{kind}": SCRIPT for kind in INFOS}
