"""The rollouts of a workdir as pages: an index, filters, views, a server."""
