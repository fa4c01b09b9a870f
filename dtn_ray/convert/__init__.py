"""Photos → emoji.

options     options of the job
pipeline    converts one batch
people      one emoji for each person
job         converts a collection
"""
