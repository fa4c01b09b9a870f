"""A training on Ray Train that the same command goes on with.

options    where and how it runs
run        start it, go on with it, finish it
report     what its workers tell
"""
