"""The datasets of the digit experiments.

load                                 the only entry point to them
svhn, mnist                          the paper's, from files
street_digits, handwritten_digits    embedded stand-ins
"""
