"""From the flags of a command and a folder to a model in memory."""
