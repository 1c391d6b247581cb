"""A family of models of another package, in one file (``tests/test_outside.py`` installs it)."""
