"""Something done to every object of a collection, once. Knows neither conversion nor ingestion.

options     of all such jobs
run         one run, from start to end
lease       … which keeps others out
plan        what there is to do
access      whether anything can be read at all
actor       a pipeline on Ray
pipeline    key → image → result
keys        … under a name that follows from the key
shards      … or many in one file
ledger      what was done
tally       … in numbers
report      … to look at
outcome     how the run ended, for those who did not watch
"""
