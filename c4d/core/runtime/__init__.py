"""A method at work: sessions, runs, forwards, what they remember and what they tell."""
