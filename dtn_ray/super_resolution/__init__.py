"""Enlarging the images of g (Sec. 5.2).

options    options of training an SRCNN
patches    its training data
job        trains one
loop       what each worker does
measure    PSNR
load       loads an SRCNN, or another network brought along
"""
