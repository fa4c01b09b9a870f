"""Processes every object of a collection once. Knows neither conversion nor ingestion.

kinds       statuses, counts and labels of a kind of job
options     options that all such jobs share
run         one run, from start to end
lease       keeps other runs out
plan        lists the source and writes the work list
access      detects that nothing can be read at all
actor       runs a pipeline on Ray
pipeline    key → image → result
keys        the name of a result, a function of the key
shards      many results in one file
ledger      what was done, one row per object
tally       counts of the ledger's rows
report      a contact sheet and an HTML page
outcome     reports how the run ended
"""
