"""A publisher whose readings are on disk before they are sent, and are kept while `durable_receiver.py` is away.

    rapini ca init keys; rapini ca issue keys receiver; rapini ca issue keys publisher
    python examples/durable_receiver.py &
    python examples/durable_publisher.py

Kill either with SIGKILL and start it again: no reading is missing in `readings.db`, and none is there twice.
"""

import itertools
import time

from rapini import Event, Node, Time


class Reading(Event, topic="kept/reading", name="example.KeptReading", delivery="durable"):
    """What is measured; its type and its number in the spool identify it for good."""

    at: Time
    number: int


owed = {"receiver": ["kept/"]}  # also before it has come for the first time
with Node("publisher", keys="keys", spool="publisher-spool", durable_subscribers=owed) as node:
    node.connect("zmq+tls://127.0.0.1:9750", wait_s=0)
    try:
        for number in itertools.count(1):
            print(number, node.publish_durable(Reading(at=time.time(), number=number)).value, flush=True)
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass
