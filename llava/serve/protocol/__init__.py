"""What clients, controller and workers say to each other: the original's protocol and OpenAI's."""
