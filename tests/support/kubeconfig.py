"""What a kubeconfig says about its current context: where, whom to trust, and who asks."""

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Upstream:
    """An API server and the credentials for it."""

    server: str
    trust: ssl.SSLContext | None
    """TLS without a client certificate; None for plain HTTP."""
    context: ssl.SSLContext | None
    """TLS with the client's certificate if it has one; None for plain HTTP."""
    token: str
    """Bearer token, or empty."""


def read_upstream(path: Path) -> Upstream:
    """The current context; raises KeyError or StopIteration for a file that is not complete."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen = _named(document["contexts"], document["current-context"])["context"]
    cluster = _named(document["clusters"], chosen["cluster"])["cluster"]
    user = _named(document["users"], chosen["user"])["user"]
    token = user.get("token", "")
    if "tokenFile" in user:
        token = Path(user["tokenFile"]).read_text(encoding="utf-8").strip()
    server = cluster["server"].rstrip("/")
    if not server.startswith("https:"):
        return Upstream(server, None, None, token)
    return Upstream(server, _tls(cluster, {}), _tls(cluster, user), token)


def write_plain_kubeconfig(path: Path, server: str, namespace: str = "default") -> Path:
    """A kubeconfig for a server that asks nobody who they are."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxied", "cluster": {"server": server}}],
        "users": [{"name": "proxied", "user": {}}],
        "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "proxied", "namespace": namespace}}],
        "current-context": "proxied",
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    authority = _bytes(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _bytes(user, "client-certificate"), _bytes(user, "client-key")
    if certificate and key:
        with tempfile.NamedTemporaryFile() as file:  # Only its owner reads it; ssl takes these from files alone.
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _bytes(entry: dict[str, Any], name: str) -> bytes:
    """A value that a kubeconfig gives as a file's name or, encoded, as it is."""
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"])
    return Path(entry[name]).read_bytes() if name in entry else b""
