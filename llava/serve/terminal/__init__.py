"""The terminal chat: a conversation at a prompt, or one question in a pipe, on `llava.serve.client`."""
