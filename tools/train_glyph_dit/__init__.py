"""Trains the class-to-image model of c4d/bundled/glyph_dit and its judge on a CPU, from nothing: see __main__.py."""
