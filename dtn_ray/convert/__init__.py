"""Photos → emoji.

options     of the job
pipeline    one batch
people      one emoji for each person
job         all of them
"""
