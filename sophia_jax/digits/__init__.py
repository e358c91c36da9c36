"""The quickstart's world: handwritten digits, composed into scenes.

scans (UCI digits) -> scenes -> questions, captions, worked examples -> problem
files and two small models that start from random weights.
"""
