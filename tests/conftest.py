"""What every test starts from: Hypothesis profiles, and the rule about missing components.

`fast` is the default profile; `RAPINI_HYPOTHESIS=deep` (set by `make deep` and `make fuzz`) spends minutes.
Neither has deadlines: a busy two-core machine is no fault of the code. On CI the examples are the same
in every run, so that a red run can be repeated; elsewhere they are new each time, to find something.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Final, NoReturn

import pytest
from hypothesis import HealthCheck, settings

ON_CI: Final = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

_SLOW_IS_FINE: Final = [HealthCheck.too_slow]

settings.register_profile(
    "fast", max_examples=50, deadline=None, derandomize=ON_CI, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile(
    "deep", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=_SLOW_IS_FINE
)
settings.load_profile(os.environ.get("RAPINI_HYPOTHESIS", "fast"))


@pytest.fixture(scope="session", autouse=True)
def _control_sockets_of_this_run() -> Iterator[None]:
    """The commands that tests start put their control sockets here, and `rapini status` finds no others.

    A short path: a socket's may have 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="rapini-test-") as folder:
        before = os.environ.get("RAPINI_RUNTIME_DIR")
        os.environ["RAPINI_RUNTIME_DIR"] = folder
        yield
        if before is None:
            del os.environ["RAPINI_RUNTIME_DIR"]
        else:
            os.environ["RAPINI_RUNTIME_DIR"] = before


def missing_component(reason: str) -> NoReturn:
    """End the running test because something it needs is absent: a failure on CI, a loud skip elsewhere.

    Args:
        reason: What is missing and how to get it.
    """
    if ON_CI:
        pytest.fail(f"missing on CI, where nothing may be: {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED, {reason}")


def require_component(name: str, *, hint: str = "") -> str:
    """Make sure that a program or a Python module is here; call it first in a test or a fixture.

    Args:
        name: A program looked for on PATH (`"nginx"`), or a module written `"python:zat"`.
        hint: How to get it, for whoever reads the report.

    Returns:
        The program's path, or the module's name.
    """
    kind, _, module = name.partition(":")
    if kind == "python":
        found = module if importlib.util.find_spec(module) else None
    else:
        # Debian keeps tools like `ip` out of a plain user's PATH.
        found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        missing_component(f"{name} is not installed{': ' + hint if hint else ''}")
    return found
