"""Arrays in, verdicts out: evidence, contrasts, claims, the recommendation. Not here: the store, files, words of the page."""
