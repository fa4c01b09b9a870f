"""Processes every object of a collection once. Knows neither conversion nor ingestion.

kinds       statuses, counts and words that a kind of job brings
options     options that all such jobs share
run         one run, from start to end
lease       keeps other runs out
plan        what there is to do: the work list
access      whether anything can be read at all
actor       holds a pipeline on Ray
pipeline    key → image → result
keys        the result's name, a function of the key
shards      many results in one file
ledger      what was done, one row per object
tally       counts of the ledger's rows
report      a contact sheet and an HTML page
outcome     reports how the run ended
"""
