"""Two nodes that both listen and both connect: one session between them, events in both directions.

    rapini ca init keys; rapini ca issue keys north; rapini ca issue keys south
    python examples/both_ways.py

Nobody is the server: of the two connections that they make, both keep the same one, whoever dialled it.
"""

from rapini import Event, Node


class Greeting(Event, topic="greeting/hello"):
    """Says hello."""

    text: str


with Node("north", keys="keys") as north, Node("south", keys="keys") as south:
    for node in (north, south):
        node.subscribe("greeting/")
    north_url, south_url = north.listen("zmq+tls://127.0.0.1:0"), south.listen("tcp+tls://127.0.0.1:0")
    north.connect(south_url)
    south.connect(north_url)
    for node, other in ((north, south), (south, north)):
        print(node.name, "is connected to", [peer.name for peer in node.peers()])
        node.publish(Greeting(f"hello {other.name}, this is {node.name}"))
    for node in (north, south):
        event, origin = next(node.events(timeout_s=10))
        print(node.name, "heard from", origin, "->", event)
