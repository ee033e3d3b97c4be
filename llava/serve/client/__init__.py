"""Holds what the web page and the terminal chat share: conversations, their files, and clients of servers."""
