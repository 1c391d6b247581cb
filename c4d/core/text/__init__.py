"""A method as text: parsed, checked, listed."""
