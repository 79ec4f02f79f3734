"""The conversation at a terminal or through a pipe: one idea a module, and the model's part in `runtime.chat`."""
