"""Processes that run together: rendezvous, agreement, and how they end."""
