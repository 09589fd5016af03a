"""The licence gate passes what we accept, refuses the rest, and is green for what is really installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import check_licences as gate


@pytest.mark.parametrize(
    "expression",
    [
        "MIT",
        "MPL-2.0",
        "Apache-2.0 OR BSD-3-Clause",
        "BSD-3-Clause AND MPL-2.0 AND ISC",
        "GPL-3.0-only OR MIT",
        "(GPL-2.0-only OR MIT) AND BSD-3-Clause",
    ],
)
def test_a_licence_with_an_acceptable_choice_passes(expression: str) -> None:
    assert gate.is_accepted(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "?",
        "GPL-3.0-only",
        "LGPL-2.1-or-later",
        "AGPL-3.0-only",
        "MIT AND GPL-2.0-only",
        "MIT AND (GPL-2.0-only OR LGPL-3.0-only)",
        "MIT OR",
        "MIT GPL-3.0-only",
        "(MIT",
        "MIT)",
        "AND MIT",
        "proprietary",
    ],
)
def test_any_other_licence_is_refused(expression: str) -> None:
    assert not gate.is_accepted(expression)


def test_a_locked_package_that_is_not_installed_is_refused() -> None:
    assert "not installed" in gate.judge(Requirement("no-such-package-of-rapini==1.0")).refusal


def test_an_installed_package_of_another_version_is_refused() -> None:
    assert "installed as" in gate.judge(Requirement("pytest==0.0.1")).refusal


def test_a_lock_line_for_another_platform_is_left_out() -> None:
    lock = "# a comment\nhere==1.0 \\\n    --hash=sha256:00\n"
    lock += "elsewhere==1.0 ; sys_platform == 'no-such' \\\n    --hash=sha256:00\n"
    assert [r.name for r in gate.locked(lock)] == ["here"]


def test_an_empty_lock_is_no_success(tmp_path: Path) -> None:
    lock = tmp_path / "empty.lock"
    lock.write_text("# nothing\n")
    assert gate.main(["--lock", str(lock)]) == 1


def test_one_refused_package_fails_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "bad.lock"
    lock.write_text("no-such-package-of-rapini==1.0\n")
    assert gate.main(["--lock", str(lock)]) == 1
    assert "REFUSED: locked but not installed" in capsys.readouterr().out


def test_everything_that_ships_with_rapini_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    status = gate.main([])
    out = capsys.readouterr().out
    assert status == 0, out
    for name in ("pyzmq", "msgspec", "cryptography", "click", "rich", "dpkt"):
        assert f"\n  {name} " in out
