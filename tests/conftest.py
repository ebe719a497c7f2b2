"""What all tests share."""

from hypothesis import settings

# No deadline: shared machines pause a process for longer than any honest limit. Failures print their replay.
settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")
