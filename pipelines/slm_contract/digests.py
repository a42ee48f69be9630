"""Names of content. A digest becomes the name of a file in the store, so each is checked wherever it is read."""

from typing import Annotated

from pydantic import Field

Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
"""``sha256:`` followed by 64 lower-case hexadecimal digits; empty where nothing is named."""
SourceDigest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40})?$")]
"""What a source publishes about a file: a Digest, or ``git-sha1:`` of git's blob, or nothing."""
PinnedDigest = Annotated[str, Field(pattern=r"^sha256:[0-9A-Fa-f]{64}$")]
"""What a user demands: people copy digests in either case."""
