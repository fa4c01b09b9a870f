"""Search over α, β and γ with Ray Tune.

options    what is searched, and how
space      the search space
tuner      the trials
worth      a trial's objective
figures    pictures of a search
job        a whole search
"""
