"""edgesink compared with other engines, each in fresh processes. Refuses to know what a ring is."""
