def cases(world): return {}
