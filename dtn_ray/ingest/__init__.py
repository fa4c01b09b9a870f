"""Photos → aligned faces in Parquet files.

options     of the job
pipeline    one batch
job         all of them
"""
