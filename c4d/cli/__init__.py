"""The command line: its options, its pages, its errors."""
