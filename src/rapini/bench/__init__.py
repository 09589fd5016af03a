"""Benchmarks: one question a module, each with a baseline beside us in the same run, as a table or JSON.

They run from an installed package (`rapini bench`). Figures are medians of interleaved rounds; quote the ratios, since
absolute rates differ from machine to machine.
"""
