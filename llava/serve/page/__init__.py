"""The web page: a client of the controller's HTTP protocol, drawn by gradio. It imports neither torch nor a model."""
