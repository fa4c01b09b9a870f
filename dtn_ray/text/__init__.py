"""Text of others and of ours, before it is printed, stored or sent.

redact      secrets are removed
display     … and what is left is made fit for terminals, HTML, chats and metrics
"""
