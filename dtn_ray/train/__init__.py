"""Training a DTN.

options    an experiment
presets    the paper's, and ours
build      its networks
prepare    data, f and judge
job        train it
loop       … on each worker
measure    what a validation tells
trained    a DTN from its checkpoint
"""
