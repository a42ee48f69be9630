"""What must hold before the first byte of a weight moves: licence and pins."""

from collections.abc import Sequence

from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile, Pin
from slm_pipelines.errors import BadInput


def check_license(found: str, allowed: Sequence[str]) -> None:
    """Raise BadInput LicenseNotAllowed unless the licence is on the list; an empty list accepts any."""
    if not allowed or found.lower() in {item.lower() for item in allowed}:
        return
    stated = f"its licence is {found}" if found else "it states no licence"
    message = f"The model may not be used: {stated}, and license.allow holds only {', '.join(allowed)}."
    raise BadInput(Reason.LICENSE_NOT_ALLOWED, message)


def check_pin(pin: Pin, revision: str, files: Sequence[ModelFile], offered: Sequence[ModelFile] | None = None) -> None:
    """Raise BadInput PinMismatch or FileNotFound when commit, names or published digests contradict the pin.

    ``files`` are those that are taken, ``offered`` all that the source holds, if that is known.
    """
    if pin.revision and pin.revision != revision:
        message = f"The revision resolves to {revision}, but pin.revision demands {pin.revision}."
        raise BadInput(Reason.PIN_MISMATCH, message)
    published = {file.name: file.digest for file in files}
    for name, digest in sorted(pin.files.items()):
        if name not in published:
            raise BadInput(Reason.FILE_NOT_FOUND, f"pin.files names {name}, {_why_missing(name, offered)}")
        if published[name].startswith("sha256:"):
            check_digest(name, digest, published[name])


def _why_missing(name: str, offered: Sequence[ModelFile] | None) -> str:
    if offered is None:
        return "which is none of the model's files: remove it from the pin."
    if any(file.name == name for file in offered):
        return "which is not taken: remove it from the pin, or let allowPatterns match it."
    return "which the source does not hold."


def check_digest(name: str, wanted: str, found: str) -> None:
    """Raise BadInput PinMismatch unless both digests are the same."""
    if wanted.lower() != found:
        raise BadInput(Reason.PIN_MISMATCH, f"{name} is {found}, but pin.files demands {wanted}.")
