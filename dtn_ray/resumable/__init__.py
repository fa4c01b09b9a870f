"""A training on Ray Train that the same command goes on with.

options    where and how it runs
run        start it, go on with it, finish it
loop       … on each worker: resume, step, log, validate, save
report     what its workers tell
curves     TensorBoard, beside the checkpoints
"""
