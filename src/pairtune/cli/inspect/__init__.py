"""one question about a base or a pair: which layers to tune, what was learnt"""
