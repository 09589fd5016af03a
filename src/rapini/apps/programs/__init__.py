"""The programs of a monitor: `sensor`, `logger` and `manager`, each a function around one node.

They use the public API alone, so a program of your own can do whatever they do. Each takes what its command line said,
runs until it is told to stop or has nothing left to do, says goodbye, and returns its exit status.
"""
