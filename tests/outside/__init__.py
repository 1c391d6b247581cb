"""Packages of others, one file each: a method, and a family of models (``tests/test_outside.py`` installs them)."""
