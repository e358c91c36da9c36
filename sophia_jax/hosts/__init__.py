"""Processes that run together: how they meet, agree and end."""
