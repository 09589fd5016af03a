"""Nodes over real sockets: what an application sees."""
