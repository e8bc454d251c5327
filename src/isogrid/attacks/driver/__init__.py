"""What is final in every attack: what a search sees, what is judged, which models and samples are accepted. Not here: algorithms."""
