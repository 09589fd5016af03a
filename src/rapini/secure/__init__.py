"""Channels and key material: what protects bytes between two nodes, and proves who they are.

Sans-IO: `channel` is the contract that every mechanism keeps; `tls` and `plain` are two of them; `envelope` is the
clear header that says, on carriers that reconnect behind our back, which channel a message belongs to. `identity` reads
who a peer is, `material` and `contexts` load keys and decide whom to trust, `authority` and `certificates` issue. No
other package imports `ssl` or `cryptography`.
"""
