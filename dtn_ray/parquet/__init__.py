"""Parquet files.

tables    others', read within bounds, by way of
thrift    … their footers
sealed    the program's own, in which damage is an error
"""
