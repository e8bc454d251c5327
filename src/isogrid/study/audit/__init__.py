"""The earlier address of `isogrid.audit`, for programs that were written for it."""
