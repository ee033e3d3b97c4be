"""Makes the embedded model `tiny` of `llava.pocket` from nothing."""
