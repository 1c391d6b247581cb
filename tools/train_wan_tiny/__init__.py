"""Trains the tiny Wan text-to-video model of c4d/bundled/wan_tiny on a CPU, from nothing: see __main__.py."""
