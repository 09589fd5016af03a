"""Writes what `durable_publisher.py` sends to SQLite, each reading exactly once, whoever is killed and when.

    rapini ca init keys; rapini ca issue keys receiver; rapini ca issue keys publisher
    python examples/durable_receiver.py &
    python examples/durable_publisher.py

A reading that is stored and the position after it are one transaction: either both are there or neither.
"""

from rapini import Event, EventRun, Node, SqliteCheckpoint, Time


class Reading(Event, topic="kept/reading", name="example.KeptReading"):
    """As in durable_publisher.py, who alone decides how it is delivered."""

    at: Time
    number: int


positions = SqliteCheckpoint("readings.db")
database = positions.connection
database.execute("CREATE TABLE IF NOT EXISTS readings(stream BLOB, sequence INTEGER, at REAL, number INTEGER)")
with Node("receiver", keys="keys", checkpoint=positions) as node:
    node.subscribe("kept/")
    print("listening on", node.listen("zmq+tls://127.0.0.1:9750"), flush=True)
    try:
        for item in node.items():
            if not isinstance(item, EventRun):
                print("--", item, flush=True)  # what happens to peers; a `Gap` would be readings that are missing
                continue
            numbered = enumerate(item.events, item.first_sequence)
            rows = [(item.stream_id, n, event.at, event.number) for n, event in numbered if isinstance(event, Reading)]
            database.executemany("INSERT INTO readings VALUES (?, ?, ?, ?)", rows)
            node.checkpoint()  # the rows and how far we are, in one commit
            print("stored up to", item.first_sequence + len(item.events) - 1, flush=True)
    except KeyboardInterrupt:
        pass
