"""The one tree of exceptions, each with a stable code and typed fields.

A leaf: it imports nothing of ours. What can go wrong between two nodes is mostly *status*, not an exception (see
`rapini.PeerStatus`); an exception is raised only to the caller who can do something about it.

    RapiniError
    ├── LocalError              the caller asked for what this state does not allow
    ├── ConfigError             a configuration, an option, a key file: names where, what, and the remedy
    ├── EventError              an event that cannot be encoded as its class declares
    ├── DecodeError             bytes that are not what they should be (decoders of network bytes raise nothing else)
    ├── CaptureError            a packet capture that cannot be read (further)
    ├── LogError                a log that cannot be written
    ├── StoreError              what is kept on disk cannot be written or read, or a store refused an operation
    ├── TransportError          the operating system or 0MQ refused (chained from OSError or ZMQError)
    └── PeerError               the other side
        ├── HandshakeError      no secured channel came about
        │   └── AuthenticationError   because of who the peer is, or is not
        ├── ProtocolError       it broke the protocol after authentication
        ├── RejectedError       it refused us, with a typed reason
        ├── PeerTimeoutError    it did not answer in time
        ├── RequestError        a request to it came to nothing
        └── LimitError          it exceeded a bound

`code` is for programs and tests (it never changes); the text is for people (it may).
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "CaptureError",
    "ConfigError",
    "DecodeError",
    "EventError",
    "HandshakeError",
    "LimitError",
    "LocalError",
    "LogError",
    "PeerError",
    "PeerTimeoutError",
    "ProtocolError",
    "RapiniError",
    "RejectedError",
    "RequestError",
    "StoreError",
    "TransportError",
]


class RapiniError(Exception):
    """Anything that Rapini raises on purpose.

    Args:
        code: Stable, machine-readable reason, for example ``"address_in_use"``.
        detail: What happened, for people, without a full stop.
        remedy: What to do about it, or an empty string.
    """

    def __init__(self, code: str, detail: str, *, remedy: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


class LocalError(RapiniError):
    """The caller asked for something that the present state does not allow."""


class ConfigError(RapiniError):
    """A configuration, an option or a key file is not usable.

    Args:
        code: Stable reason.
        detail: What is wrong.
        where: The file, with line and option where known: ``rapini.toml:12 [node] listen``.
        remedy: What to do.
    """

    def __init__(self, code: str, detail: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(code, detail, remedy=remedy)
        self.where = where

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.where}: {text}" if self.where else text


class EventError(RapiniError):
    """An event cannot be encoded as its class declares; `path` names the field.

    Args:
        code: ``wrong_type``, ``not_encodable`` or ``bad_definition``.
        detail: What is wrong, with the event's type.
        path: The field, as in ``$.id.orig_p``; empty when the whole event is meant.
        remedy: What to do.
    """

    def __init__(self, code: str, detail: str, *, path: str = "", remedy: str = "") -> None:
        super().__init__(code, detail, remedy=remedy)
        self.path = path


class DecodeError(RapiniError):
    """Bytes are not what they should be; `path` names the place where known."""

    def __init__(self, code: str, detail: str, *, path: str = "") -> None:
        super().__init__(code, detail)
        self.path = path


class CaptureError(RapiniError):
    """A packet capture cannot be read, or not any further.

    Args:
        code: ``not_found``, ``not_a_capture``, ``unreadable``, ``truncated``, ``damaged`` or ``link_type``.
        detail: What is wrong.
        path: The file.
        packet: The number of the first packet that could not be read (from 1); 0 when none was reached.
        remedy: What to do.
    """

    def __init__(self, code: str, detail: str, *, path: str, packet: int = 0, remedy: str = "") -> None:
        super().__init__(code, detail, remedy=remedy)
        self.path = path
        self.packet = packet

    def __str__(self) -> str:
        place = f"{self.path}: packet {self.packet}" if self.packet else self.path
        return f"{place}: {super().__str__()}"


class LogError(RapiniError):
    """A log cannot be opened or written."""


class StoreError(RapiniError):
    """What is kept on disk cannot be written or read, or a store refused an operation.

    Args:
        code: Of spools and checkpoints: ``spool_in_use``, ``checkpoint_in_use``, ``spool_full``, ``disk_full``,
            ``sync_failed``, ``write_failed``, ``unreadable``, ``damaged`` or ``format_unknown``; those of stores are
            listed in `docs/reference/stores.md`.
        detail: What happened.
        path: The file or folder.
        remedy: What to do.
    """

    def __init__(self, code: str, detail: str, *, path: str = "", remedy: str = "") -> None:
        super().__init__(code, detail, remedy=remedy)
        self.path = path

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.path}: {text}" if self.path else text


class TransportError(RapiniError):
    """The operating system or 0MQ refused; chained from the `OSError` or `ZMQError`."""


class PeerError(RapiniError):
    """The other side failed us, or refused us.

    Args:
        code: Stable reason.
        detail: What happened.
        peer: The peer's name where it is known, else its address.
        remedy: What to do.
    """

    def __init__(self, code: str, detail: str, *, peer: str = "", remedy: str = "") -> None:
        super().__init__(code, detail, remedy=remedy)
        self.peer = peer

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.peer}: {text}" if self.peer else text


class HandshakeError(PeerError):
    """No secured channel came about."""


class AuthenticationError(HandshakeError):
    """No secured channel came about because of who the peer is, or is not."""


class ProtocolError(PeerError):
    """An authenticated peer broke the protocol."""


class RejectedError(PeerError):
    """The peer refused us with a typed reason."""


class PeerTimeoutError(PeerError):
    """The peer did not answer within the deadline."""


class RequestError(PeerError):
    """A request, or an event for one peer, came to nothing.

    `code` is ``no_peer`` (nobody to ask), ``deadline``, ``peer_lost``, ``peer_left``, ``no_handler``,
    ``handler_failed``, ``overloaded``, ``too_large`` or ``bad_event`` (it does not fit its type at the receiver). After
    ``deadline``, ``peer_lost`` and ``peer_left`` the peer may have acted on it: nothing is ever sent twice.
    """


class LimitError(PeerError):
    """The peer exceeded one of our bounds (see `rapini.limits`)."""
