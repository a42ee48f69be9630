"""Container images made from files of this machine, because no image registry can be reached."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARCHITECTURE = "amd64"


@dataclass(frozen=True)
class Image:
    """One image: a name and what its single layer holds."""

    name: str
    files: Mapping[str, Path]
    """Path in the image to the program that lies there."""
    entrypoint: Sequence[str]


def write_archive(image: Image, target: Path) -> None:
    """An OCI archive as ``ctr images import`` reads it; the same files give the same bytes."""
    layer = _layer(image.files)
    digest = hashlib.sha256(layer).hexdigest()
    config = _encode(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Entrypoint": list(image.entrypoint), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    )
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer)],
        }
    )
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
    index = {"schemaVersion": 2, "manifests": [{**_descriptor(MANIFEST_TYPE, manifest), "annotations": names}]}
    parts = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _encode(index)}
    parts |= {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (layer, config, manifest)}
    with tarfile.open(target, "w") as archive:
        for name, data in parts.items():
            _add(archive, name, data, 0o644)


def _layer(files: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("tmp", "bin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for name, source in files.items():
            _add(archive, name.lstrip("/"), source.read_bytes(), 0o755)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
