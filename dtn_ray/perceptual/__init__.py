"""The perceptual network f, and the judge: brought along or trained.

options    of training one
load       from ONNX or a checkpoint
job        train one
loop       … on each worker
measure    … and what it is worth
"""
