"""Searching α, β and γ with Ray Tune.

options    what is searched, and how
space      what Ray Tune draws from
tuner      its trials
worth      what a trial is worth
figures    pictures of a search
job        a search
"""
