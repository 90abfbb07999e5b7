"""How large the package is, room by room, and how deep its imports go: now, and at another commit.

    .venv/bin/python benchmarks/structure.py --before 8b88531

prints a table in Markdown. A room is a folder of `src/panodetr`; depth is the longest chain of
modules of which each imports the next, type-only imports included; a circle counts as one module.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).resolve().parents[1]


def count(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Files and lines of Python of each room below a folder; "" is the folder itself."""
    files, lines = Counter[str](), Counter[str]()
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).parts
        room = parts[0] if len(parts) > 1 else "(top)"
        files[room] += 1
        lines[room] += len(path.read_text(encoding="utf-8").splitlines())
    return files, lines


def imports(source: Path) -> tuple[int, list[list[str]]]:
    """Depth of the package's import graph below `source`, and its circles."""
    sys.path.insert(0, str(source))
    try:
        graph = grimp.build_graph("panodetr", cache_dir=None)
    finally:
        sys.path.remove(str(source))
    arrows = networkx.DiGraph()
    for module in graph.modules:
        arrows.add_node(module)
        for imported in graph.find_modules_directly_imported_by(module):
            arrows.add_edge(module, imported)
    circles = [sorted(c) for c in networkx.strongly_connected_components(arrows) if len(c) > 1]
    depth = networkx.dag_longest_path_length(networkx.condensation(arrows)) + 1
    return depth, sorted(circles)


def measure(
    root: Path,
) -> tuple[dict[str, tuple[Counter[str], Counter[str]]], int, list[list[str]]]:
    """Rooms of the package and of its tests, depth, and circles, in a checkout."""
    rooms = {"src": count(root / "src" / "panodetr"), "tests": count(root / "tests")}
    return rooms, *imports(root / "src")


def checkout(revision: str, folder: Path) -> Path:
    """Unpack the package and the tests as they were at a commit."""
    command = ["git", "-C", str(ROOT), "archive", revision, "src", "tests"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="8b88531", help="commit to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own: a package is imported once.
        old = checkout(options.before, Path(folder))
        before, old_depth, old_circles = measure(old)
    for name in [name for name in sys.modules if name.split(".")[0] == "panodetr"]:
        del sys.modules[name]
    now, depth, circles = measure(ROOT)
    print(f"| room | files before | now | lines before | now |\n|{' --- |' * 5}")
    for part in ("src", "tests"):
        (old_files, old_lines), (files, lines) = before[part], now[part]
        for room in sorted(old_files | files):
            cells = old_files[room], files[room], old_lines[room], lines[room]
            print(f"| {part}/{room} | {' | '.join(map(str, cells))} |")
        totals = old_files.total(), files.total(), old_lines.total(), lines.total()
        print(f"| **{part}** | {' | '.join(map(str, totals))} |")
    print(f"\nDepth of imports: {old_depth} before, {depth} now.")
    print(f"Circles between files: {len(old_circles)} before, {len(circles)} now.")
    for circle in circles:
        print(f"- {', '.join(circle)}")


if __name__ == "__main__":
    main()
