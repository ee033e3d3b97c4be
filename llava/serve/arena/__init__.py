"""The arena's votes: logged, read, rated, ranked."""
