"""The perceptual network f, and the judge: trained here, or imported.

options    options of training one
load       loads one from ONNX or a checkpoint
job        trains one
loop       what each worker does
measure    how good it is
"""
