"""The offline update on caption trees: TERMS, STREAMS and `credit` by module."""
