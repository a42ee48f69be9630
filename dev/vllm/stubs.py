"""Stand-ins for the CUDA libraries that PyTorch is linked to and that nobody calls on CPUs: 4 GB less to fetch.

One library defines every function of theirs that PyTorch's libraries leave open, and each of their names leads to it.
Whoever calls one all the same gets 100, ``cudaErrorNoDevice``. The CUDA runtime itself is the real one.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CUDA = re.compile(r"cublas|cusparse|cudnn|cufft|cuFile|curand|cusolver|p?nccl|nvrtc|_?nvshmem|cupti|cu[A-Z]")
SYSTEM = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|gomp))\.so.*")
NO_DEVICE = 100


def make_stubs(packages: Path) -> list[str]:
    """Make what is missing where PyTorch looks for it; the names of the libraries, sorted.

    ``packages`` is the ``site-packages`` folder. Raises CalledProcessError where gcc or binutils fail.
    """
    libraries = sorted((packages / "torch" / "lib").glob("*.so*"))
    target = packages / "nvidia" / "cu13" / "lib"
    target.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in (*libraries, *target.iterdir())}
    needed = {name for path in libraries for name in re.findall(r"NEEDED.*\[(.+)\]", _read("readelf", "-dW", path))}
    missing = sorted(name for name in needed - there if not SYSTEM.fullmatch(name))
    _compile(_functions(libraries), target / "libstubs.so")
    for name in missing:
        (target / name).symlink_to("libstubs.so")
    return missing


def _functions(libraries: Iterable[Path]) -> dict[str, list[str]]:
    """Version, empty for none, to the functions of CUDA that the libraries ask for in it."""
    defined: set[str] = set()
    asked: set[tuple[str, str]] = set()
    for path in libraries:
        for line in _read("nm", "-D", path).splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            if kind not in "Uw":
                defined.add(name)
            elif CUDA.match(name):
                asked.add((version.strip("@"), name))
    found: dict[str, list[str]] = {}
    for version, name in sorted(asked):
        if name not in defined:
            found.setdefault(version, []).append(name)
    return found


def _compile(functions: Mapping[str, Sequence[str]], target: Path) -> None:
    names = sorted({name for group in functions.values() for name in group})
    code = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names)
    versions = "".join(f"{each} {{ {'; '.join(group)}; }};\n" for each, group in functions.items() if each)
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stubs.c"), Path(folder, "versions")
        source.write_text(code, encoding="utf-8")
        script.write_text(versions, encoding="utf-8")
        # -w: the compiler knows some of these functions otherwise.
        command: list[str | Path] = [
            "gcc",
            "-shared",
            "-fPIC",
            "-w",
            f"-Wl,--version-script={script}",
            "-o",
            target,
            source,
        ]
        subprocess.run(command, check=True, timeout=600)


def _read(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
