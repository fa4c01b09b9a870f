"""From stored images to batches.

layouts     how image sets are stored
rows        row groups of Parquet files
windows     groups of these, in an order computed from a seed, decoded
order       the order of images and their distribution to workers
labelled    a set in memory
bad_rows    rows without a usable image
feed        batches from memory
streamed    batches from Parquet files of any size, with Ray Data
digits/     datasets of the digit experiments
"""
