"""A target set t of drawn avatars.

options    of the job
draw       one avatar, aligned like a face
job        many, into Parquet files, on Ray
"""
