"""The sensor's packet side: capture files in, `Connection` and `DnsExchange` events out.

    with open_capture("traffic.pcap") as capture:
        analyzer = Analyzer(AnalyzerConfig(uid_seed=os.urandom(16)))
        for ts, link_type, frame, wire_bytes in capture:
            analyzer.packet(ts, link_type, frame, wire_bytes)
            for event in analyzer.drain():
                node.publish(event)
        analyzer.finish()

`capture` (with `pcapng`) reads files, `decode` (with `links`) finds the transport header, `flows` (with `flow`, `tcp`,
`services`, `records`) keeps the flow table, `dns` (with `dns_message`, `dns_names`) pairs queries with answers, and
`analyzer` puts them together. Nothing here knows a socket, a thread or a clock.
"""

from rapini.apps.sensor.analyzer import Analyzer, AnalyzerConfig, Counters
from rapini.apps.sensor.capture import Capture, Packet, open_capture
from rapini.apps.sensor.decode import Undecoded
from rapini.apps.sensor.flow import SensorEvent
from rapini.apps.sensor.flows import Timeouts
from rapini.apps.sensor.records import DEFAULT_LOCAL_NETS

__all__ = [
    "DEFAULT_LOCAL_NETS",
    "Analyzer",
    "AnalyzerConfig",
    "Capture",
    "Counters",
    "Packet",
    "SensorEvent",
    "Timeouts",
    "Undecoded",
    "open_capture",
]
