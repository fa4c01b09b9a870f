"""The methods that Table 2 compares the DTN with. A further one is a module of its own here, and a subcommand of
jobs/baseline.py.

options               options of each
features              f(x) or pixels, as rows of numbers
nearest               the simple nearest-neighbour classifier
subspace_alignment    SA (Fernando et al. 2013)
dann                  DANN (Ganin et al. 2016): its networks, reversed gradient and schedules
loop                  what each worker of its training does
job                   runs each method by itself
"""
