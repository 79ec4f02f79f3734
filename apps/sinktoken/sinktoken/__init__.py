"""A study: does a small model that is trained with a sink token need one pinned token instead of four?"""
