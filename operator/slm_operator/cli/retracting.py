"""What a failed ``slm run`` or ``pull`` leaves behind: nothing where its model was refused, else how to remove it."""

from collections.abc import Sequence

from slm_operator.adapters.sqlite import SqliteCluster
from slm_operator.cli.exits import FAILURE, CommandFailed
from slm_operator.local.faults import was_refused
from slm_operator.ports import ObjectKey


async def retract(
    cluster: SqliteCluster, error: CommandFailed, model: ObjectKey, new: Sequence[ObjectKey]
) -> CommandFailed:
    """The error, with what became of a model that was never resolved and of what this call had made (``new``).

    A model that stays would answer later calls with the same refusal, also after its files or the hub were mended.
    """
    manifest = await cluster.get(model)
    if error.code != FAILURE or manifest is None or (manifest.get("status") or {}).get("revision"):
        return error
    jobs = await cluster.list("Job", model.namespace, {"slm.dev/kind": model.kind, "slm.dev/name": model.name})
    if model not in new or not any(map(was_refused, jobs)):
        return CommandFailed(f"{error} Remove it with: slm delete slmmodel/{model.name}", error.code)
    for key in reversed(new):
        await cluster.delete(key)
    return CommandFailed(f"{error} Nothing was kept of it.", error.code)
