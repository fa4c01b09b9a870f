"""Experiments: tables and figures of many trainings, beside the paper's numbers.

options                                      the options of an experiment
grid                                         trainings, cells, rows and tables as values
trainings                                    the kinds of trainings
digits                                       the digit domain as a grid: variants by seeds
table1, table2, table3, figure3, figure10    the paper's
distances, presets                           … its claims on d and d2, and the presets beside it
beyond                                       an f that has seen t, beyond the paper
caption                                      what of an experiment is the paper's, and what is ours
runner                                       trains and measures what is missing, on Ray
progress                                     … how far it is, and the time left
measures                                     a checkpoint → numbers and pictures
tables                                       cells → Markdown and JSON
figures                                      … and pictures
job                                          a whole experiment
"""
