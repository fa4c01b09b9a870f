"""What is to be done, by lists of keys made elsewhere; and what is left out of any list.

inventory                           S3 Inventory, tables, lists of keys
list_text, list_tables              … as text, as tables (in a process of their own)
list_columns, list_keys, values     columns by their names, keys below IN, numbers and times
patterns                            users' regular expressions
left_out                            what was left out, and why
"""
