"""Photos → aligned faces in Parquet files.

options     options of the job
faces       columns of faces in the ledger and in shards
pipeline    ingests one batch
job         ingests a collection
"""
