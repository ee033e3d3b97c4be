"""The web page: a Gradio app that asks a controller over HTTP. It imports neither torch nor a model."""
