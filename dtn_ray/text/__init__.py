"""Cleans text before it is printed, stored or sent.

redact      removes secrets
display     makes the rest safe for terminals, HTML, chats and metrics
"""
