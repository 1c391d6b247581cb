"""Requests over HTTP: a queue on disk, workers with a device each, and the shapes that clients know."""
