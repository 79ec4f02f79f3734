"""Memory beyond the window: an archive of what was said, a search in it, and ways to bring it back."""
