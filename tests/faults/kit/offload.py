"""Switches an interface's offloads off, so that packets are whole on the wire.

On a veth pair the kernel leaves checksums to be filled in and large TCP segments to be cut up by "hardware" that does
not exist. Two kernels at either end know that of each other; a program that reads the packets in between and sends them
on would deliver wrong checksums and giants. So each end must do the work itself.

Source: `linux/ethtool.h` (commands and `struct ethtool_value`), `linux/sockios.h`. No need for the program `ethtool`.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from typing import Final

__all__ = ["offloads", "switch_offloads_off"]

_SIOCETHTOOL: Final = 0x8946

_COMMANDS: Final = {  # name: (ask, set), in the order in which they can be switched off
    "tcp_segmentation": (0x1E, 0x1F),
    "generic_segmentation": (0x23, 0x24),
    "generic_receive": (0x2B, 0x2C),
    "scatter_gather": (0x18, 0x19),
    "transmit_checksum": (0x16, 0x17),
    "receive_checksum": (0x14, 0x15),
}


def _ethtool(control: socket.socket, interface: str, command: int, value: int = 0) -> int:
    argument = array.array("B", struct.pack("=II", command, value))
    address, _ = argument.buffer_info()
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("@16sP16x", interface.encode(), address))
    return int(struct.unpack("=II", argument.tobytes())[1])


def switch_offloads_off(control: socket.socket, interface: str) -> None:
    """Switch them all off; `OSError` if the kernel refuses.

    Args:
        control: Any socket of the interface's namespace.
        interface: Its name there.
    """
    for _, switch in _COMMANDS.values():
        _ethtool(control, interface, switch)
    still_on = [name for name, is_on in offloads(control, interface).items() if is_on]
    if still_on:
        raise OSError(f"{interface}: still on: {', '.join(still_on)}")


def offloads(control: socket.socket, interface: str) -> dict[str, bool]:
    """Which offloads are on, by name."""
    return {name: bool(_ethtool(control, interface, ask)) for name, (ask, _) in _COMMANDS.items()}
