"""Trains the tiny FLUX text-to-image model of c4d/bundled/flux_tiny on a CPU, from nothing: see __main__.py."""
