"""Field types: addresses, networks and ports behave as what they are named after."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.events import Address, Network, Port


@given(st.ip_addresses())
def test_an_address_is_the_same_from_text_bytes_and_object(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    address = Address.of(ip)
    assert address == Address.of(str(ip)) == Address.of(ip.packed) == Address.of(address)
    assert len(address.mapped) == 16
    assert address.ip == ipaddress.ip_address(address.packed)
    assert ipaddress.ip_address(str(address)) == address.ip


def test_an_ipv4_address_and_its_mapped_form_are_one_value() -> None:
    assert Address.of("192.0.2.1") == Address.of("::ffff:192.0.2.1")
    assert Address.of("::ffff:192.0.2.1").version == 4
    assert Address.of("::1").version == 6
    assert str(Address.of("::ffff:192.0.2.1")) == "192.0.2.1"


@pytest.mark.parametrize("wrong", ["", "300.1.1.1", "1.2.3", b"abc", "::1%eth0x" * 9, "example"])
def test_what_is_no_address_is_refused(wrong: str | bytes) -> None:
    with pytest.raises(ValueError):
        Address.of(wrong)


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_network_holds_what_ipaddress_says_it_holds(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    reference = ipaddress.ip_network((ip, min(bits, ip.max_prefixlen)), strict=False)
    network = Network.of(reference)
    if Address.of(ip).version == ip.version:  # the mapped form counts as IPv4
        assert network.ip == reference
        assert ipaddress.ip_network(str(network)) == reference
        assert Address.of(ip) in network
        if Address.of(other).version == other.version:
            assert (Address.of(other) in network) is (other in reference)


def test_a_network_that_no_peer_should_send_contains_nothing() -> None:
    assert Address.of("10.0.0.1") not in Network(Address.of("10.0.0.1"), 100)


def test_a_network_with_host_bits_is_refused() -> None:
    with pytest.raises(ValueError):
        Network.of("10.0.0.1/8")
    assert str(Network.of("10.0.0.0/8")) == "10.0.0.0/8"
    assert Network.of("10.0.0.0/8").ip == ipaddress.ip_network("10.0.0.0/8")


def test_types_are_ordered_hashable_and_print_as_people_write_them() -> None:
    assert Address.of("10.0.0.1") < Address.of("10.0.0.2")
    assert len({Port(80), Port(80), Port(80, "udp")}) == 2
    assert f"{Port(53, 'udp')}" == "53/udp"
