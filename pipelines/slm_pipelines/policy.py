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


def check_pin(pin: Pin, revision: str, files: Sequence[ModelFile]) -> None:
    """Raise BadInput PinMismatch when commit, file names or published digests contradict the pin."""
    if pin.revision and pin.revision != revision:
        message = f"The revision resolves to {revision}, but pin.revision demands {pin.revision}."
        raise BadInput(Reason.PIN_MISMATCH, message)
    published = {file.name: file.digest for file in files}
    for name, digest in sorted(pin.files.items()):
        if name not in published:
            raise BadInput(Reason.FILE_NOT_FOUND, f"pin.files names {name}, which the source does not hold.")
        if published[name].startswith("sha256:"):
            check_digest(name, digest, published[name])


def check_digest(name: str, wanted: str, found: str) -> None:
    """Raise BadInput PinMismatch unless both digests are the same."""
    if wanted.lower() != found:
        raise BadInput(Reason.PIN_MISMATCH, f"{name} is {found}, but pin.files demands {wanted}.")
