"""The paper's measurements and figures.

options      options of a retrieval
seen         scores on images that training has seen
digits       Table 1: accuracy
retrieval    Table 4, on Ray
examiner     one actor of a retrieval
ranking      ranks, medians and their intervals
figures      figures of both
"""
