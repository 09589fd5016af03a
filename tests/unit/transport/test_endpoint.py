"""Endpoints: what is accepted, what is refused with which code, and that writing undoes reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import ConfigError
from rapini.transport.endpoint import SCHEMES, Endpoint

_HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z0-9]{1,10}){0,3}", fullmatch=True),
    st.just("*"),
)


@given(scheme=st.sampled_from(SCHEMES), host=_HOSTS, port=st.integers(0, 65535))
def test_writing_undoes_reading(scheme: str, host: str, port: int) -> None:
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    endpoint = Endpoint.parse(url)
    assert str(endpoint) == url
    assert (endpoint.host, endpoint.port) == (host, port)
    assert f"{endpoint.transport}+{endpoint.mechanism}" == scheme


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_a_config_error(text: str) -> None:
    for url in (text, f"zmq+tls://{text}"):
        code = _code(url)
        assert code in {None, "unknown_scheme", "bad_endpoint"}


def _code(url: str) -> str | None:
    """The code of the refusal, if any; whatever else is raised fails the test."""
    try:
        Endpoint.parse(url)
    except ConfigError as error:
        return error.code if error.remedy else "no remedy"
    return None


@pytest.mark.parametrize("url", ["http://x:1", "zmq://x:1", "zmq+tlss://x:1", "ZMQ+TLS://x:1", "://x:1"])
def test_an_unknown_scheme_is_told_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Endpoint.parse(url)
    assert error.value.code == "unknown_scheme"
    assert all(scheme in str(error.value) for scheme in SCHEMES)


@pytest.mark.parametrize(
    "rest",
    [
        "", "host", "host:", ":1", "host:x", "host:-1", "host:65536", "host:1/path", "host:1?a=b", "user@host:1",
        "::1:9750", "[::1]", "[::1]9750", "[::1:9750", "[host]:1", "1.2.3:1", "1.2.3.256:1", "ho st:1", "-a.b:1",
        "host:１", "host:999999", "a..b:1", "host:1#x", "x" * 300 + ":1", "host:1\n",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(rest: str) -> None:
    url = f"zmq+tls://{rest}"
    if rest == "host:1\n":  # white space around a URL is no fault of it
        assert Endpoint.parse(url).port == 1
        return
    with pytest.raises(ConfigError) as error:
        Endpoint.parse(url)
    assert error.value.code == "bad_endpoint"


def test_only_what_means_every_address_is_a_wildcard() -> None:
    assert all(Endpoint.parse(f"tcp+tls://{host}:1").is_wildcard for host in ("*", "0.0.0.0", "[::]"))
    assert not Endpoint.parse("tcp+tls://127.0.0.1:1").is_wildcard
