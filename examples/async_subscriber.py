"""The subscriber as an asyncio program: the same node underneath.

    rapini ca init keys; rapini ca issue keys subscriber; rapini ca issue keys publisher
    python examples/async_subscriber.py &
    python examples/publisher.py

Ctrl-C ends it, with a goodbye.
"""

import asyncio

from rapini import AsyncNode, Event, Gap, PeerStatus, Time


class Reading(Event, topic="sensor/reading"):
    """As in publisher.py."""

    at: Time
    number: int
    load: float


async def main() -> None:
    async with AsyncNode("subscriber", keys="keys") as node:
        await node.subscribe("sensor/")
        print("listening on", node.listen("zmq+tls://127.0.0.1:9750"), flush=True)
        async for item in node.items():
            if isinstance(item, PeerStatus | Gap):
                print("--", item, flush=True)
            else:
                event, origin = item
                print(origin, origin.topic, event, flush=True)


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
