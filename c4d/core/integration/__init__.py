"""What hangs on a model during a session, and how it leaves the model as it was."""
