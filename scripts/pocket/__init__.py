"""Makes the embedded models of `llava.pocket` again from nothing."""
