"""The terminal chat: a conversation at a prompt, or one question in a pipe, built on `llava.serve.client`."""
