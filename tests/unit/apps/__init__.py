"""Unit tests of the programs that ship with Rapini."""
