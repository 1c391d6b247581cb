"""Causal rollout: a video model goes on block by block, over the keys and values of the blocks before."""
