"""A target set t of drawn avatars.

options    options of the job
draw       one avatar, aligned like a face
job        many avatars, into Parquet files, on Ray
"""
