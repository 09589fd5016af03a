"""A publisher: dials `subscriber.py` over mutual TLS and sends it a reading a second.

    rapini ca init keys; rapini ca issue keys subscriber; rapini ca issue keys publisher
    python examples/subscriber.py &
    python examples/publisher.py

Restart either of them: the other notices, and goes on. Ctrl-C ends it, with a goodbye.
"""

import itertools
import os
import time

from rapini import Event, Node, Time


class Reading(Event, topic="sensor/reading"):
    """What is measured, every second."""

    at: Time
    number: int
    load: float


with Node("publisher", keys="keys") as node:
    try:
        print("connected to", node.connect("zmq+tls://127.0.0.1:9750"), flush=True)
        for number in itertools.count(1):
            node.publish(Reading(at=time.time(), number=number, load=os.getloadavg()[0]))
            time.sleep(1)
    except KeyboardInterrupt:
        pass
