"""The one way in for an image: where it comes from, what it may be, how it becomes RGB."""
