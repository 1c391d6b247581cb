"""The documentation site: ``make site``. Its pages are the repository's own, and those made of what c4d declares."""
