"""The inside of the controller: which workers there are, and how a request reaches one."""
