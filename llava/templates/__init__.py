"""Templates that are not LLaVA's own: those of other families of language models, and those that a folder brings."""
