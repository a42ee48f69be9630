"""The audit's file. A request whose line cannot be written is the last one that is answered."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from slm_operator.gateway.audit import FIRST, Chain, verify
from slm_operator.gateway.record import Record
from slm_operator.gateway.refusal import Refusal

LOG = logging.getLogger(__name__)
MODE = 0o600
STANDARD_OUTPUT = 1
OUTPUT = f"/proc/self/fd/{STANDARD_OUTPUT}"
PIPE_BYTES = 2**20
"""Two thousand lines: as many may come before whoever collects them looks. Linux allows that much to everybody."""


class AuditDamaged(Exception):
    """The file's chain is broken, so that nothing can be added to it; the message says where."""


class AuditLines:
    """Adds a line per request to what this process alone writes; ``observe`` is a ``record.Observer``."""

    def __init__(self, descriptor: int, chain: Chain, wall_clock: Callable[[], float]) -> None:
        self._descriptor = descriptor
        self._chain = chain
        self._wall_clock = wall_clock
        self._unwritten = b""
        self._left_out = 0
        self._failing = False

    @property
    def head(self) -> str:
        """The hash of the last line, for whoever keeps it elsewhere."""
        return self._chain.previous

    def observe(self, record: Record) -> None:
        """One request has ended. The line is with the operating system when this returns, unless it says otherwise.

        Lines that cannot be written wait for it: of answers, which were under way then. Those that are refused in the
        meantime are only counted, since clients may try again for as long as a disk is full.
        """
        if self._unwritten and not record.attempts:
            self._left_out += 1
            return
        self._unwritten += self._chain.append(record, self._wall_clock())
        self._write()

    def check(self) -> None:
        """Raise Refusal while lines cannot be written: nothing is answered that would not be in the audit."""
        if self._unwritten:
            self._write()
        if self._unwritten:
            message = "The gateway cannot write its audit, so it answers nothing: its disk may be full."
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "audit_unavailable", message, 5)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)

    def _write(self) -> None:
        try:
            written = os.write(self._descriptor, self._unwritten)
        except OSError as problem:
            if not self._failing:  # Once: each request tries it again.
                LOG.error("the audit cannot be written: %s", problem)  # noqa: TRY400 (the reason is all there is)
            self._failing = True
            return
        self._unwritten = self._unwritten[written:]
        self._failing = self._failing and bool(self._unwritten)
        if self._left_out and not self._unwritten:
            LOG.warning("the audit could be written again; %d requests were refused meanwhile", self._left_out)
            self._left_out = 0


class AuditFile(AuditLines):
    """Adds lines to a file, which it goes on with where there is one."""

    def __init__(self, path: Path, wall_clock: Callable[[], float]) -> None:
        """Go on where the file ends; raises OSError, and AuditDamaged when its chain is broken."""
        chain = _chain_of(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        super().__init__(descriptor, chain, wall_clock)


class AuditOutput(AuditLines):
    """Adds lines to standard output, where a cluster's log collector keeps them; a chain per process."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        super().__init__(_open_output(), Chain(FIRST), wall_clock)

    def close(self) -> None:
        """Standard output stays."""
        if self._descriptor != STANDARD_OUTPUT:
            super().close()


def _open_output() -> int:
    """Standard output anew, so that writing never waits.

    Whoever collects it may stand still; every stream of the gateway would stand with it. What does not fit into the
    pipe is treated as on a full disk instead.
    """
    try:
        descriptor = os.open(OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # Not Linux, or a socket.
        return STANDARD_OUTPUT
    with contextlib.suppress(OSError):  # No pipe: a file or a terminal.
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor


def _chain_of(path: Path) -> Chain:
    """The chain so far. A line that a crash cut at the end is taken off: its request was not answered to its end."""
    if not path.exists():
        return Chain(FIRST)
    with path.open("rb+") as file:
        found = verify(line for line in file if line.endswith(b"\n"))
        if found.problem:
            raise AuditDamaged(f"{path}: {found.problem}. Keep it for whoever looks into that, and start another file.")
        whole = file.seek(0, os.SEEK_END)
        while whole and _byte_at(file, whole - 1) != b"\n":
            whole -= 1
        file.truncate(whole)
    return Chain(found.last, found.lines)


def _byte_at(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(1)
