"""A table that two nodes share: the master keeps it in a file; a clone reads its own copy, and writes by the master.

    rapini ca init keys; rapini ca issue keys manager; rapini ca issue keys sensor
    python examples/shared_table.py

Run it twice: the table in `hosts.store` is still there, with what both wrote.
"""

from rapini import Node

with Node("manager", keys="keys") as manager, Node("sensor", keys="keys") as sensor:
    hosts = manager.store("hosts", master=True, path="hosts.store")
    hosts.put("192.0.2.7", {"name": "printer", "ports": [80, 631]})

    copy = sensor.store("hosts")
    sensor.connect(manager.listen("tcp+tls://127.0.0.1:0"))
    copy.wait_synced(timeout_s=10)
    print("the sensor knows", copy.get("192.0.2.7"))

    # Of all nodes that saw the scan, one reports it, and for an hour nobody does again.
    for node, table in ((sensor, copy), (manager, hosts)):
        if table.put_unique(("scan", "192.0.2.9"), node.name, expires_in_s=3600):
            print(node.name, "reports the scan")
    print("run number", copy.increment("runs"), "and the manager has", hosts.get("runs"))
