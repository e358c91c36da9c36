"""SGLang servers: what to start for a config, and supervision."""
