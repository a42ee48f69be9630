"""What a source offers at one revision, and how a hub describes it: nothing a hub says is taken as it comes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from slm_contract.reasons import Reason
from slm_contract.specs import ModelFile
from slm_pipelines.errors import BadInput

REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
"""A commit of git, or whatever short name another kind of hub gives to fixed content."""
SHOWN_LETTERS = 80
"""How much of a name that somebody else chose is quoted."""


@dataclass(frozen=True)
class Listing:
    """What an origin offers at one revision."""

    revision: str
    files: tuple[ModelFile, ...]
    license: str


def parse_listing(document: Mapping[str, Any], endpoint: str) -> Listing:
    """A hub's model description; raises BadInput InvalidListing where it cannot be true."""
    revision, siblings = document.get("sha"), document.get("siblings")
    if not isinstance(revision, str) or REVISION.fullmatch(revision) is None:
        raise _invalid(endpoint, "it names no commit in `sha`")
    if not isinstance(siblings, list):
        raise _invalid(endpoint, "it has no list of files in `siblings`")
    return Listing(revision, tuple(_parse_file(item, endpoint) for item in siblings), _find_license(document))


def _parse_file(item: Any, endpoint: str) -> ModelFile:
    if not isinstance(item, dict):
        raise _invalid(endpoint, f"{str(item)[:SHOWN_LETTERS]!r} in `siblings` is no file")
    name, lfs = item.get("rfilename"), item.get("lfs")
    if isinstance(lfs, dict):
        size, digest = lfs.get("size"), f"sha256:{lfs.get('sha256') or lfs.get('oid')}"
    else:
        size, digest = item.get("size"), f"git-sha1:{item.get('blobId')}"
    try:
        return ModelFile.model_validate({"name": name, "size_bytes": size, "digest": digest})
    except ValidationError as error:
        fault = error.errors()[0]
        what = f"{fault['loc'][0]} {str(fault['input'])[:SHOWN_LETTERS]!r} of {str(name)[:SHOWN_LETTERS]!r}"
        raise _invalid(endpoint, f"the {what} cannot be right") from None


def _find_license(document: Mapping[str, Any]) -> str:
    card = document.get("cardData")
    stated = card.get("license") if isinstance(card, dict) else None
    if isinstance(card, dict) and stated == "other" and card.get("license_name"):
        stated = card["license_name"]
    if isinstance(stated, str):
        return stated
    tags = document.get("tags")
    named = (str(tag) for tag in tags) if isinstance(tags, list) else iter(())
    return next((tag.removeprefix("license:") for tag in named if tag.startswith("license:")), "")


def _invalid(endpoint: str, what: str) -> BadInput:
    message = f"{endpoint} describes the repository in a form that cannot be used ({what}): is it a hub's address?"
    return BadInput(Reason.INVALID_LISTING, message)
