"""From stored images to batches.

layouts     how others write image sets
rows        row groups of Parquet files
windows     … in an order that is arithmetic, decoded
order       which image comes when, on which worker
labelled    a set in memory
bad_rows    rows without an image
feed        batches from memory
streamed    batches from Parquet files of any size: Ray Data
digits/     the digit experiments' datasets
"""
