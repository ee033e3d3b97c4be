"""A judge's reviews of answers: asked for, logged, read, summarised."""
