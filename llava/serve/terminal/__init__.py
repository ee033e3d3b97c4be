"""The terminal chat: a conversation at a prompt, or one question in a pipe; a client of `llava.serve.chat`."""
