"""Tools that make real faults: bad networks, killed and stopped processes, full and damaged disks; and the account.

Everything stays on this machine: the networks are namespaces that a test makes and removes, joined by a bridge of our
own, with no way out of them. Each tool has a test that it does what it says (`tests/faults/test_kit_*.py`).
"""
