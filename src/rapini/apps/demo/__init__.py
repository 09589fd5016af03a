"""`rapini demo`: the fixed story of a monitor that survives kills, and the account of every event in it.

`story` tells it, `cast` holds its processes, `view` shows it on a terminal or a pipe, `summary` adds it up.
"""
