"""The methods of domain adaptation that Table 2 compares the DTN with, and FixMatch, with which f can be adapted to t.

A further one is a module of its own here, and a subcommand of jobs/baseline.py.

options               options of each
features              f(x) or pixels, as rows of numbers
nearest               the simple nearest-neighbour classifier
subspace_alignment    SA (Fernando et al. 2013)
dann                  DANN (Ganin et al. 2016): its networks, reversed gradient and schedules
fixmatch              FixMatch (Sohn et al. 2020), beyond the paper: its pseudo-labels and losses
loop                  what each worker of the trainings of both does
job                   runs each method by itself
"""
