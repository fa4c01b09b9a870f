"""Parquet files.

tables    files from others, read within bounds
thrift    their footers
sealed    the program's own files, in which damage is an error
"""
