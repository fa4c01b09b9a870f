"""Photos → aligned faces in Parquet files.

options     options of the job
faces       what jobs that look for faces enter into ledger and shards
pipeline    ingests one batch
job         ingests a collection
"""
