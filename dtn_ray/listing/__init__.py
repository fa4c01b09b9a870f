"""Lists of objects from elsewhere in place of a listing, and what is left out of any list.

inventory                           S3 Inventory, tables, lists of keys
list_text, list_tables              their formats: text, and tables (read in a process of their own)
list_columns, list_keys, values     columns by name, keys below IN, numbers and times
patterns                            users' regular expressions
left_out                            what was left out, and why
"""
