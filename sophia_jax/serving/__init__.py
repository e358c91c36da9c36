"""The code inside the servers: SGLang-JAX, SGLang, and the images of both."""
