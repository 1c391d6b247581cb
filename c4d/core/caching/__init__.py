"""When, and what instead: rules of policies and forecasters, pure functions on the host."""
