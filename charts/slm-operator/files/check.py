"""What `helm test` runs: ``check.py READY_URL API_URL``. Standard library only; the operator's image has no more.

Says in a sentence what is wrong and exits with 1, or says that all is well.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

KINDS = {"slmmodels", "quantjobs", "inferenceservices"}
PATIENCE_SECONDS = float(os.environ.get("SLM_CHECK_SECONDS", "60"))
"""The operator may have been started a moment ago."""
ACCOUNT = Path(os.environ.get("SLM_CHECK_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))


def ask(url: str, token: str = "", authority: Path | None = None) -> str:
    """The body of an answer; raises OSError, whose text says what went wrong."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - both addresses are the chart's own
    with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310
        return str(answer.read(1 << 20).decode())


def wait_until_ready(url: str) -> None:
    """Return once the operator says that it is ready; raises OSError with its last answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            ask(url)
        except OSError as problem:
            if time.monotonic() > deadline:
                said = problem.read().decode() if isinstance(problem, urllib.error.HTTPError) else ""
                raise OSError(f"the operator is not ready: {url}: {problem} {said}".strip()) from problem
            time.sleep(1)
        else:
            return


def find_missing(api: str) -> set[str]:
    """Kinds that the API server does not serve."""
    try:
        body = ask(f"{api}/apis/slm.dev/v1alpha1", (ACCOUNT / "token").read_text().strip(), ACCOUNT / "ca.crt")
    except urllib.error.HTTPError as problem:
        if problem.code == 404:  # noqa: PLR2004 - the group is unknown
            return KINDS
        raise
    return KINDS - {resource["name"] for resource in json.loads(body)["resources"]}


def main(ready: str, api: str) -> str:
    """What is wrong; empty when nothing is."""
    try:
        wait_until_ready(ready)
        missing = find_missing(api)
    except OSError as problem:
        return str(problem)
    named = ", ".join(sorted(missing))
    return f"the API server does not serve {named}: install the CRDs (crds.install=true)" if missing else ""


if __name__ == "__main__":
    found = main(*sys.argv[1:])
    print(found or "The operator is ready, and the API server serves the three kinds.")
    sys.exit(1 if found else 0)
