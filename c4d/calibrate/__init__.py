"""Profiles: a solver of few computed steps for a model, fitted in closed loop on any pipeline, and the search for it.

Nothing here knows a model: what is needed passes through the scheduler's ``step`` (sample, model output, next sample).
"""
