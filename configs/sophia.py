"""SOPHIA on InternVL3-8B: configs/internvl3_8b.py under the method's name."""

from configs.internvl3_8b import get_config

__all__ = ["get_config"]
