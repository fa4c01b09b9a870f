"""Training a DTN.

options           an experiment
presets           the paper's experiments, and ours
command           the options of each preset on the command line
domain            what differs between digits and faces
digits, faces     the two domains
domains           which domain an experiment has
prepare           reads data, makes f and the judge
job               trains it
loop              what each worker does
measure           the measurements of a validation
trained           a DTN from its checkpoint
"""
