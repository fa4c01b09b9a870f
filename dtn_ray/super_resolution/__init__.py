"""Enlarging what g draws (Sec. 5.2).

options    of training an SRCNN
patches    what it learns from
job        train one
loop       … on each worker
measure    PSNR
load       an SRCNN, or another network brought along
"""
