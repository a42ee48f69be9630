"""``python -m dev.images build|clean|context``: the product's container images; see ``make images``."""

import argparse
import sys
from pathlib import Path

from dev.images.build import FAILURES, BuildFailed, build_images, clean, describe
from dev.images.context import ContextFailed, write_context
from dev.images.recipe import ARCHITECTURES, RECIPES

EPILOG = """examples:
  python -m dev.images build                              all of them; what has not changed is not built again
  python -m dev.images build --base REGISTRY/debian:forky on another base image
  python -m dev.images context slm-operator FOLDER --architecture arm64
  docker buildx build --platform linux/arm64 FOLDER       a build for elsewhere, from that folder"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.images",
        description="The product's container images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what has changed, and tell sizes and digests")
    build.add_argument("--base", default="", help="base image instead of the Dockerfiles' own")
    build.add_argument("names", nargs="*", metavar="IMAGE", help=f"default: {', '.join(RECIPES)}")
    commands.add_parser("clean", help="remove archives, bases and the images a running engine holds")
    context = commands.add_parser("context", help="write the folder that an image is built from")
    context.add_argument("name", choices=sorted(RECIPES))
    context.add_argument("folder", type=Path, help="a new or empty folder")
    context.add_argument("--architecture", choices=sorted(ARCHITECTURES.values()), help="default: this machine's")
    return parser


def show_images(names: list[str], base: str) -> None:
    """Build, and print a table; sizes are those of the layers, uncompressed."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise BuildFailed(f"There is no image {unknown[0]}: {', '.join(RECIPES)}")
    archives = build_images(names or tuple(RECIPES), base)
    sys.stdout.write(f"{'IMAGE':44} {'SIZE':>8}  DIGEST\n")
    for archive in archives.values():
        built = describe(archive)
        sys.stdout.write(f"{built.reference:44} {built.size_bytes / 1e6:5.0f} MB  {built.digest}\n")
    sys.stderr.write(f"==> Archives for docker load and ctr images import: {next(iter(archives.values())).parent}\n")


def make_context(name: str, folder: Path, architecture: str) -> None:
    """Fill a folder, and say how to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ContextFailed(f"{folder} is not empty")
    write_context(RECIPES[name], folder, architecture)
    sys.stderr.write(f"==> Build it: docker buildx build --tag {name} {folder}\n")


def main() -> int:
    """Parse and do."""
    arguments = build_parser().parse_args()
    try:
        match arguments.command:
            case "build":
                show_images(arguments.names, arguments.base)
            case "context":
                make_context(arguments.name, arguments.folder, arguments.architecture or "")
            case _:
                removed = clean()
                sys.stdout.write("\n".join(removed or ["there was nothing to remove"]) + "\n")
    except FAILURES as problem:
        sys.stderr.write(f"images: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
