"""Defines what clients, controller and workers send to each other: the original's protocol and OpenAI's."""
