"""The licence gate: what a user gets with Rapini must be free to use, change and pass on.

It reads the *resolved* packages: every name and version in `requirements.lock` that this machine's markers
select, looked up in the running environment. A package that is absent, of another version, or of unclear
licence fails, so a new dependency cannot slip in unread. What only developers install is listed, not judged.

MPL-2.0 is accepted beside the permissive licences: its copyleft ends at the file, and we change none of those
files. pyzmq's wheels carry libzmq (MPL-2.0) and libsodium (ISC) as shared libraries beside pyzmq's own code.

    python tools/check_licences.py [--lock FILE] [--dev-lock FILE]    exit status 1 if anything is refused
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent

ACCEPTED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)

# What classifiers and the older free-text field mean. "BSD" names no variant; all of them are permissive.
SPELLINGS: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

# Packages whose metadata says less than all, read by hand: the licence of all in the wheel, and where it says so.
READ_BY_HAND: Final = {
    "pyzmq": ("BSD-3-Clause AND MPL-2.0 AND ISC", "its licences/ folder: libzmq MPL-2.0, libsodium ISC"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One package and what was made of its licence.

    Attributes:
        name: The package, as the lock spells it.
        licence: An SPDX expression, or what stands in its place.
        refusal: Why it may not be shipped, or an empty string.
    """

    name: str
    licence: str
    refusal: str = ""


def locked(text: str) -> Iterator[Requirement]:
    """The requirements of a lock file that apply to this machine, without their hashes."""
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def stated_licence(package: metadata.PackageMetadata) -> str:
    """What a package's metadata says, as an SPDX expression where it can be made into one; may be empty."""
    if "License-Expression" in package:
        return package["License-Expression"]
    prefix = "License :: OSI Approved :: "
    classifiers = [c.removeprefix(prefix) for c in package.get_all("Classifier") or [] if c.startswith(prefix)]
    stated = classifiers or [package["License"].strip() if "License" in package else ""]
    return " AND ".join(SPELLINGS.get(name, name) for name in stated)


def is_accepted(expression: str) -> bool:
    """Whether an SPDX expression leaves a choice that we accept: all of an AND, any of an OR."""
    try:
        tokens = re.findall(r"\(|\)|[^\s()]+", canonicalize_license_expression(expression))
    except InvalidLicenseExpression:
        return False
    accepted, rest = _any_of(tokens)
    return accepted and not rest


def _any_of(tokens: list[str]) -> tuple[bool, list[str]]:
    accepted, tokens = _all_of(tokens)
    while tokens and tokens[0].upper() == "OR":
        right, tokens = _all_of(tokens[1:])
        accepted = accepted or right
    return accepted, tokens


def _all_of(tokens: list[str]) -> tuple[bool, list[str]]:
    accepted, tokens = _one(tokens)
    while tokens and tokens[0].upper() == "AND":
        right, tokens = _one(tokens[1:])
        accepted = accepted and right
    return accepted, tokens


def _one(tokens: list[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] != "(":
        return tokens[0] in ACCEPTED, tokens[1:]
    accepted, rest = _any_of(tokens[1:])
    closed = bool(rest) and rest[0] == ")"
    return accepted and closed, rest[1:]


def judge(requirement: Requirement) -> Finding:
    """Look one locked package up in the running environment and judge what it says."""
    try:
        package = metadata.metadata(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(name=requirement.name, licence="?", refusal="locked but not installed")
    if not requirement.specifier.contains(package["Version"], prereleases=True):
        wrong = f"installed as {package['Version']}, locked as {requirement.specifier}"
        return Finding(name=requirement.name, licence="?", refusal=wrong)
    by_hand = READ_BY_HAND.get(canonicalize_name(requirement.name))
    licence = by_hand[0] if by_hand else stated_licence(package)
    if not licence:
        return Finding(name=requirement.name, licence="?", refusal="states no licence; read it, then READ_BY_HAND")
    refusal = "" if is_accepted(licence) else "not among the accepted licences"
    return Finding(name=requirement.name, licence=licence, refusal=refusal)


def developers_only(lock: Path, runtime: list[Finding]) -> list[Finding]:
    """The packages of the developers' lock that a user never gets: reported, not judged."""
    shipped = {canonicalize_name(finding.name) for finding in runtime}
    found = (judge(r) for r in locked(lock.read_text("utf-8")) if canonicalize_name(r.name) not in shipped)
    return [Finding(name=f.name, licence=f.licence.splitlines()[0]) for f in found]


def main(arguments: list[str] | None = None) -> int:
    """Print what was found, and answer with the exit status."""
    parser = argparse.ArgumentParser(description="Check the licences of what is installed with Rapini.")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--dev-lock", type=Path, default=ROOT / "requirements-dev.lock")
    options = parser.parse_args(arguments)
    runtime = [judge(requirement) for requirement in locked(options.lock.read_text("utf-8"))]
    refused = [finding for finding in runtime if finding.refusal]
    print(f"shipped with Rapini ({options.lock.name}):")
    for finding in runtime:
        verdict = f"REFUSED: {finding.refusal}" if finding.refusal else "ok"
        print(f"  {finding.name:24} {finding.licence:36} {verdict}")
    print(f"developers only ({options.dev_lock.name}), not judged:")
    for finding in developers_only(options.dev_lock, runtime):
        print(f"  {finding.name:24} {finding.licence[:80]}")
    if not runtime:
        print("the lock names no package at all", file=sys.stderr)
    return 1 if refused or not runtime else 0


if __name__ == "__main__":
    sys.exit(main())
