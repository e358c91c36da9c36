"""Algorithms: methods of a few functions each, made of shared parts.

`registry.ALGORITHMS` lists them; `contract.Algorithm` says what one is.
"""
