"""Unit tests of the sensor's packet side: captures, decoding, flows, DNS. No network, no privileges."""
