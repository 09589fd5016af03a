"""The settings' file: right values are taken, wrong ones name file, line, option and remedy."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rapini.errors import ConfigError
from rapini.node.settings import NodeSettings, load_table, load_toml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rapini.toml"


def refused(file: Path, text: str, table: str = "node") -> ConfigError:
    """How a file with this text is refused."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_table(file, table, NodeSettings)
    return caught.value


def test_a_file_says_what_differs_from_the_defaults(file: Path) -> None:
    file.write_text(
        '[sensor]\nanything = "goes"\n[node]\nlisten = ["tcp+tls://[::1]:0"]\nheartbeat_interval_s = 2\n'
        'heartbeat_timeout_s = 6.5\nreconnect = "manual"\n',
        encoding="utf-8",
    )
    got = load_table(file, "node", NodeSettings)
    expected = NodeSettings(
        listen=["tcp+tls://[::1]:0"], heartbeat_interval_s=2.0, heartbeat_timeout_s=6.5, reconnect="manual"
    )
    assert got == expected


@pytest.mark.parametrize("text", ["", "[sensor]\nx = 1\n", "[node]\n"])
def test_an_absent_table_means_all_defaults(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_table(file, "node", NodeSettings) == NodeSettings()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[node]\nlisten = [\n", 3),
        ("[node]\n\nname = = 1\n", 3),
        ("[node\n", 1),
        ("[node]\ndebug = true\ndebug = false\n", 3),
        ("just text\n", 1),
    ],
    ids=repr,
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(file: Path, text: str, line: int) -> None:
    error = refused(file, text)
    assert (error.code, error.where) == ("bad_toml", f"{file}:{line}")
    assert error.remedy
    assert str(error).startswith(f"{file}:{line}: not TOML: ")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[node]\n\nlisten = 'x'\n", "3 [node] listen", "array"),
        ("[node]\nlisten = [1]\n", "2 [node] listen[0]", "str"),
        ("[node]\nwindow_bytes = 5\n", "2 [node] window_bytes", "1024"),
        ("[node]\nheartbeat_interval_s = -1\n", "2 [node] heartbeat_interval_s", "0"),
        ("[node]\nheartbeat_interval_s = nan\n", "2 [node] heartbeat_interval_s", "> 0"),
        ("[node]\nreconnect = 'maybe'\n", "2 [node] reconnect", "maybe"),
        ("# [node]\n[a]\ndebug = 1\n[node]\ndebug = 1\n", "5 [node] debug", "bool"),
        ("[node] # ours\n  debug = 1\n", "2 [node] debug", "bool"),
        ('[node]\n"debug" = 1\n', "2 [node] debug", "bool"),
        ("[node]\nlisten.x = 1\n", "2 [node] listen", "array"),
        ("node = 5\n", "1 [node]", "object"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused_with_line_option_and_remedy(file: Path, text: str, place: str, words: str) -> None:
    error = refused(file, text)
    assert (error.code, error.where) == ("bad_option", f"{file}:{place}")
    assert words in error.detail
    assert error.remedy


def test_an_unknown_option_is_refused_with_those_that_are_known(file: Path) -> None:
    error = refused(file, "[node]\nlisten = []\n\nlistne = ['x']\n")
    assert error.where == f"{file}:4 [node] listne"
    assert all(option in error.remedy for option in NodeSettings.__struct_fields__)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "absent.toml", "file_not_found"), (tmp_path, "file_unreadable")):
        with pytest.raises(ConfigError) as caught:
            load_toml(path)
        assert (caught.value.code, caught.value.where) == (code, str(path))
    (tmp_path / "latin").write_bytes(b"x = '\xe9'")
    with pytest.raises(ConfigError) as caught:
        load_toml(tmp_path / "latin")
    assert caught.value.code == "file_unreadable"


def test_a_heartbeat_needs_two_chances() -> None:
    with pytest.raises(ConfigError) as caught:
        NodeSettings(heartbeat_interval_s=2.0, heartbeat_timeout_s=3.9).checked()
    assert caught.value.code == "bad_option"
    settings = NodeSettings(heartbeat_interval_s=2.0, heartbeat_timeout_s=4.0)
    assert settings.checked() is settings


def test_the_defaults_fit_their_own_rules() -> None:
    defaults = NodeSettings()
    assert msgspec.convert(msgspec.structs.asdict(defaults), NodeSettings).checked() == defaults
