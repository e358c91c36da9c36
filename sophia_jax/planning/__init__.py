"""Value-based planning with a language model as prior: LINVIT and SLINVIT."""
