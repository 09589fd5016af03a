"""A subscriber: listens for `publisher.py` and prints what comes, and what happens to its peers, in order.

    rapini ca init keys; rapini ca issue keys subscriber; rapini ca issue keys publisher
    python examples/subscriber.py &
    python examples/publisher.py

An event type is known by its name: this program has a class of its own, with the same name and fields.
"""

from rapini import Event, Gap, Node, PeerStatus, Time


class Reading(Event, topic="sensor/reading"):
    """As in publisher.py."""

    at: Time
    number: int
    load: float


with Node("subscriber", keys="keys") as node:
    node.subscribe("sensor/")
    print("listening on", node.listen("zmq+tls://127.0.0.1:9750"), flush=True)
    try:
        for item in node.events(with_status=True):
            if isinstance(item, PeerStatus | Gap):
                print("--", item, flush=True)
            else:
                event, origin = item
                print(origin, origin.topic, event, flush=True)
    except KeyboardInterrupt:
        pass
