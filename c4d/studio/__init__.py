"""Pages in a browser over what the command line does (``c4d studio``)."""
