"""What two nodes say to each other, without a socket, a thread or a clock: sans-IO.

`link` is one channel's life from the greeting to the goodbye; `roster` knows the peers by name across channels and
judges who may have one; `outbox` holds what a peer has not acknowledged; `redial` decides when to try again.
"""
