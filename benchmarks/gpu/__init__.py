"""Measurements on one GPU: `make gpu-suite` (docs/guides/gpus.md)."""
