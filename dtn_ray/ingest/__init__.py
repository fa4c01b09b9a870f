"""Photos → aligned faces in Parquet files.

options     options of the job
pipeline    ingests one batch
job         ingests a collection
"""
