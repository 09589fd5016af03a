"""Rapini's own programs: sensor, manager, logger and what holds them together. They use the public API alone."""
