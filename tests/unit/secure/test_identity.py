"""Names, and the identity read from a certificate."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import ConfigError, DecodeError
from rapini.limits import MAX_NAME_BYTES
from rapini.secure.identity import (
    check_name,
    identity_uri,
    parse_identity_untrusted,
    role_uri,
    validity_untrusted,
)
from rapini.testing.authority import IssuedFiles
from tests.unit.secure.pairs import World


def _der(files: IssuedFiles) -> bytes:
    certificate = x509.load_pem_x509_certificate(files.certificate_path.read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", ["a", "sensor-1", "_x", "0", "A.b_c-d", "n" * MAX_NAME_BYTES])
def test_names_that_can_be_used(name: str) -> None:
    assert check_name(name) == name
    assert identity_uri(name, name) == f"rapini://{name}/{name}"
    assert role_uri(name, name) == f"rapini-role://{name}/{name}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-option", "a/b", "a b", "a\n", "ä", "a\x00", "a:b", "n" * (MAX_NAME_BYTES + 1)]
)
def test_names_that_cannot(name: str) -> None:
    for call in (check_name, lambda n: identity_uri("c", n), lambda n: role_uri(n, "r")):
        with pytest.raises(ConfigError) as caught:
            call(name)
        assert caught.value.code == "bad_name"
        assert "\n" not in str(caught.value)


def test_an_identity_is_read_as_it_was_issued(world: World) -> None:
    der = _der(world.authority.issue("sensor-9", role="sensor"))
    identity = parse_identity_untrusted(der)
    assert (identity.cluster, identity.node, identity.role) == ("test", "sensor-9", "sensor")
    assert identity.fingerprint_sha256 == hashlib.sha256(der).hexdigest()
    assert identity.not_after == validity_untrusted(der)[1]
    assert identity.not_after.utcoffset() is not None


@given(noise=st.binary(max_size=200))
def test_garbage_is_no_certificate(noise: bytes) -> None:
    for call in (parse_identity_untrusted, validity_untrusted):
        with pytest.raises(DecodeError) as caught:
            call(noise)
        assert caught.value.code == "certificate_invalid"


@given(place=st.integers(0, 700), bit=st.integers(0, 7))
def test_an_altered_certificate_is_read_or_refused_but_never_breaks_the_reader(
    world: World, place: int, bit: int
) -> None:
    der = bytearray(_der_of_manager(world))
    der[place % len(der)] ^= 1 << bit
    codes = set()
    for call in (parse_identity_untrusted, validity_untrusted):
        try:
            call(bytes(der))
        except DecodeError as error:
            codes.add(error.code)
    assert codes <= {"certificate_invalid", "no_identity"}


def test_a_certificate_of_an_unknown_version_is_refused(world: World) -> None:
    """Found by the test above: this one is no ValueError in `cryptography`."""
    version_3, version_4 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03"
    der = _der_of_manager(world)
    assert version_3 in der
    for call in (parse_identity_untrusted, validity_untrusted):
        with pytest.raises(DecodeError) as caught:
            call(der.replace(version_3, version_4, 1))
        assert caught.value.code == "certificate_invalid"


_cache: list[bytes] = []


def _der_of_manager(world: World) -> bytes:
    if not _cache:
        _cache.append(_der(world.authority.issue("altered")))
    return _cache[0]


def test_a_certificate_without_any_alternative_name(world: World) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_identity_untrusted(_der(world.authority.issue("x", uris=[], hosts=())))
    assert caught.value.code == "no_identity"
