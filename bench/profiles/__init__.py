"""Profiles on the three yardsticks, beside every method, plain steps and plain steps at searched levels (__main__)."""
