"""Two hundred reconnects leave nothing behind: no socket, no thread, no memory, on either side."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.node.support import QUICK, SCHEMES, Keys, port_of
from tests.programs.child import Child
from tests.programs.proxy import Proxy

WARM_UP = 50
SLOPE_BYTES = 10_000
"""Of resident memory, for each reconnect: a leaked TLS object alone takes more."""


@pytest.mark.parametrize("reconnects", [200, pytest.param(5000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_reconnects_leak_nothing(keys: Keys, scheme: str, reconnects: int) -> None:
    """The link is reset again and again between two processes, with an event across each new one."""
    quick = {"backoff_first_s": 0.01, "backoff_max_s": 0.02}
    with (
        Child("server", keys.of("server"), ["tick/"]) as server,
        Child("client", {**keys.of("client"), **QUICK, **quick}) as client,
        Proxy(port_of(server.call("listen", url=f"{scheme}://127.0.0.1:0")["url"])) as proxy,
    ):
        client.call("connect", url=f"{scheme}://127.0.0.1:{proxy.port}")
        before: list[dict[str, Any]] = []
        for number in range(WARM_UP + reconnects):
            if number == WARM_UP:
                before = [child.call("usage") for child in (server, client)]
            since = client.count
            proxy.reset()
            client.wait_status("resumed", since=since)
            client.tell("publish", first=number, count=1)
            server.wait_event(number, since=max(0, server.count - 20))
        after = [child.call("usage") for child in (server, client)]
        assert server.call("counters")["peers_lost"] >= reconnects
        assert server.events() == list(range(WARM_UP + reconnects))
    for was, now in zip(before, after, strict=True):
        assert now["fds"] <= was["fds"] + 2, (was, now)
        assert now["threads"] <= was["threads"], (was, now)
        assert now["rss"] - was["rss"] < SLOPE_BYTES * reconnects, (was, now)
