"""Measurements, each beside a peer; `python -m benchmarks.NAME`.

A package by name: wheels of others ship a `benchmarks` too, such as pyarrow 17.
"""
