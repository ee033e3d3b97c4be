"""The inside of a worker: from an HTTP request to a backend's answer, and back as a stream."""
